"""The corpus that every machine with Python has: the source code of its standard library."""

from __future__ import annotations

import hashlib
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lite_llm.contracts.errors import InvalidSettings

HELD_OUT_SHARE: Final = 20
"""One file in so many is held out."""

_NOT_SOURCE: Final = frozenset(
    # Installed packages, tests that some distributions leave out, and tables rather than code.
    ("site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data")
)
_OF_THE_MACHINE: Final = ("_sysconfigdata", "sitecustomize", "usercustomize")


@dataclass(frozen=True)
class SourceFile:
    """One module, by its path within the library."""

    name: str
    data: bytes

    @property
    def is_held_out(self) -> bool:
        """By the hash of the name, so that an edit moves no file from one side to the other."""
        digest = hashlib.sha256(self.name.encode()).digest()
        return int.from_bytes(digest[:8], "big") % HELD_OUT_SHARE == 0


@dataclass(frozen=True)
class Corpus:
    """All files in order of name."""

    files: tuple[SourceFile, ...]
    origin: str
    """Whose library it is: implementation and version."""

    @property
    def digest(self) -> str:
        """SHA-256 of every name and every byte."""
        whole = hashlib.sha256()
        for file in self.files:
            whole.update(hashlib.sha256(file.name.encode()).digest())
            whole.update(hashlib.sha256(file.data).digest())
        return whole.hexdigest()

    @property
    def num_bytes(self) -> int:
        return sum(len(file.data) for file in self.files)

    def training(self) -> Iterator[SourceFile]:
        """What is learnt from."""
        return (file for file in self.files if not file.is_held_out)

    def held_out(self) -> Iterator[SourceFile]:
        """What is only measured."""
        return (file for file in self.files if file.is_held_out)


def standard_library(directory: Path | None = None) -> Corpus:
    """That of the running interpreter, or of another one's ``lib/python3.x``.

    Raises :class:`InvalidSettings` where there is none.
    """
    root = directory or Path(sysconfig.get_path("stdlib"))
    paths = sorted(
        (path.relative_to(root).as_posix(), path)
        for path in root.rglob("*.py")
        if not _NOT_SOURCE.intersection(path.relative_to(root).parts)
        and not path.name.startswith(_OF_THE_MACHINE)
    )
    files = [SourceFile(name, path.read_bytes()) for name, path in paths]
    read = tuple(file for file in files if file.data.strip() and _is_text(file.data))
    if not read:
        raise InvalidSettings(
            f"{root} holds no Python source",
            where="corpus",
            remedy="name the directory of a standard library, lib/python3.x",
        )
    version = f"{platform.python_implementation()} {platform.python_version()}"
    return Corpus(read, version if directory is None else str(directory.name))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
