"""What stands for the content of a checkpoint in a local directory: nodes' own may differ.

Our own format's index holds checksums of all the rest. A Hugging Face directory has none, and
hashing a hundred gigabytes before each load would cost more than the load: small files count
whole, large ones by their length, their beginning and end, and pieces in between.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from lite_llm.checkpoint import INDEX_NAME
from lite_llm.contracts.errors import StorageFailed

WHOLE_BYTES: Final = 1 << 20
"""A file up to here is read whole."""
PIECES: Final = 16
PIECE_BYTES: Final = 16 << 10
SUFFIXES: Final = (".safetensors", ".json", ".model", ".txt", ".jinja", ".gguf", ".bin")
"""Of files that change what a model answers."""


def digest_of_directory(directory: Path) -> str:
    """SHA-256, hexadecimal: of the index, or over names and contents as told above.

    Takes some milliseconds a large file. Raises :class:`StorageFailed`.
    """
    try:
        index = directory / INDEX_NAME
        if index.is_file():
            return hashlib.sha256(index.read_bytes()).hexdigest()
        digest = hashlib.sha256()
        for path in sorted(directory.iterdir()):
            if path.suffix in SUFFIXES and path.is_file():
                digest.update(f"{path.name}\0".encode())
                _add(path, digest)
        return digest.hexdigest()
    except OSError as error:
        raise StorageFailed(
            f"{directory} can't be read: {error.strerror}",
            where=str(directory),
            remedy="check the directory and its permissions",
        ) from error


def _add(path: Path, digest: hashlib._Hash) -> None:
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(f"{size}\0".encode())
        if size <= WHOLE_BYTES:
            digest.update(file.read())
            return
        for number in range(PIECES):
            offset = (size - PIECE_BYTES) * number // (PIECES - 1)
            digest.update(os.pread(file.fileno(), PIECE_BYTES, offset))
