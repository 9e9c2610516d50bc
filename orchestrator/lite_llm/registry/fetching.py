"""A source's files onto this machine's disk: each once, resumed where it was cut."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from lite_llm.contracts.errors import Corrupt, LiteLLMError, OutOfMemory, StorageFailed
from lite_llm.contracts.manifest import FileRecord
from lite_llm.stores import Listing, Source

PARALLEL: Final = 4
"""Files at a time."""
PIECE_BYTES: Final = 8 << 20
"""Asked for at a time, and lost at most when this process dies."""


async def fetch(
    source: Source, listing: Listing, directory: Path, progress: Callable[[int], None]
) -> None:
    """Bring all files to ``directory``; ``progress`` is told how many bytes are there.

    What an earlier fetch of the same content left is kept. Raises :class:`Corrupt` for a file whose
    bytes are not what the source said, :class:`OutOfMemory` for a full disk, and what the source
    does.
    """
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    turns = asyncio.Semaphore(PARALLEL)
    counts = dict.fromkeys(listing.files, 0)

    async def bring(file: FileRecord) -> None:
        def count(num_bytes: int) -> None:
            counts[file] = num_bytes
            progress(sum(counts.values()))

        async with turns:
            await _bring(source, listing, file, directory, count)

    try:
        async with asyncio.TaskGroup() as group:
            for file in listing.files:
                group.create_task(bring(file))
    except* LiteLLMError as errors:
        raise errors.exceptions[0] from None  # the others were cancelled for it, or are like it


async def _bring(
    source: Source,
    listing: Listing,
    file: FileRecord,
    directory: Path,
    count: Callable[[int], None],
) -> None:
    target = directory / file.name
    # Another content has another name, so that nothing of it is ever taken for a beginning.
    tag = hashlib.sha256(listing.identity(file).encode()).hexdigest()[:16]
    partial = directory / f".{file.name}.{tag}.part"
    if not target.exists():
        with partial.open("ab", buffering=0) as out:
            done = out.tell()
            while done < file.num_bytes:
                piece = bytearray(min(PIECE_BYTES, file.num_bytes - done))
                await source.read(file.name, done, memoryview(piece))
                await asyncio.to_thread(_write, out, piece)
                done += len(piece)
                count(done)
        await asyncio.to_thread(_check, partial, file, listing.uri)
        partial.replace(target)
    count(file.num_bytes)


def _write(out: BinaryIO, piece: bytearray) -> None:
    try:
        view = memoryview(piece)
        while view:
            view = view[out.write(view) :]
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfMemory(
                f"no room on the disk of {out.name}",
                where="scratch",
                remedy="give ingestion a larger scratch directory",
            ) from error
        raise StorageFailed(f"{out.name} can't be written", where="scratch") from error


def _check(partial: Path, file: FileRecord, uri: str) -> None:
    with partial.open("rb") as read:
        if file.sha256 and hashlib.file_digest(read, "sha256").hexdigest() != file.sha256:
            partial.unlink()
            raise Corrupt(
                f"{uri}/{file.name} is not what its source's SHA-256 says",
                where=f"{uri}/{file.name}",
                remedy="fetch it again; if that repeats, the source is damaged",
            )
        os.fsync(read.fileno())
