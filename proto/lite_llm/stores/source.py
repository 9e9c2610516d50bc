"""Where a checkpoint comes from: one small interface, and a local directory behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from lite_llm.contracts.errors import InvalidRequest
from lite_llm.contracts.tiers import Medium
from lite_llm.stores.block_device import medium_behind
from lite_llm.stores.failures import ShortRead, read_failed


class Source(Protocol):
    """A distant place that holds a checkpoint's files by name."""

    uri: str

    async def identity(self, name: str) -> str:
        """Changes whenever the file's content does: for files whose digest nobody knows."""

    async def read(self, name: str, offset: int, target: memoryview) -> None:
        """Fill ``target`` from ``offset``, with as many retries as the source thinks right.

        Raises :class:`StoreUnavailable` when they are used up, :class:`ShortRead` if the file ends
        too early, and whatever else says why the file can't be had.
        """

    async def close(self) -> None:
        """End connections."""


@dataclass(frozen=True, slots=True)
class FileStatus:
    """Of a file at its source."""

    num_bytes: int
    identity: str
    """As :meth:`Source.identity`."""
    sha256: str = ""
    """Hexadecimal, where the source tells it."""


class Origin(Source, Protocol):
    """A source that can be asked what it has."""

    async def status(self, name: str) -> FileStatus:
        """Raises :class:`ReadFailed` where there is no such file."""


class LocalSource:
    """A directory of this machine: its files are read in place, never copied to a nearer disk."""

    def __init__(self, directory: Path) -> None:
        self.uri = directory.absolute().as_uri()
        self._directory = directory

    def path(self, name: str) -> Path:
        """Raises :class:`InvalidRequest` for names that lead out of the directory."""
        return self._directory / checked_parts(name)

    @cached_property
    def medium(self) -> Medium:
        """What the directory lies on."""
        return medium_behind(self._directory)

    async def read(self, name: str, offset: int, target: memoryview) -> None:
        """As a mirror: like a distant source, through the page cache."""
        await asyncio.to_thread(_read, self.path(name), offset, target)

    async def close(self) -> None:
        """There are no connections."""

    async def identity(self, name: str) -> str:
        path = self.path(name)
        try:
            status = await asyncio.to_thread(path.stat)
        except OSError as error:
            raise read_failed(path, 0, error) from error
        return f"{self.uri}/{name}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


def _read(path: Path, offset: int, target: memoryview) -> None:
    done = 0
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            while done < len(target):
                with target[done:] as rest:
                    count = file.readinto(rest) or 0
                if count == 0:
                    raise ShortRead(f"{path} ends at {offset + done}", where=f"{path}")
                done += count
    except OSError as error:
        raise read_failed(path, offset + done, error) from error


def checked_parts(name: str) -> str:
    """``name`` if it stays below its root; :class:`InvalidRequest` otherwise."""
    parts: Sequence[str] = name.split("/")
    if name.startswith("/") or {"", ".", ".."} & set(parts) or "\\" in name or "\0" in name:
        raise InvalidRequest(
            f"{name[:80]!r} is not a file name of a checkpoint",
            where="manifest",
            remedy="use a relative path without empty parts, '.' or '..'",
        )
    return name
