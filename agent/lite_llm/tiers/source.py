"""Where a checkpoint comes from: one small interface, and a local directory behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from lite_llm.contracts.errors import InvalidRequest
from lite_llm.tiers.disk_reader import read_failed


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


class LocalSource:
    """A directory of this machine: its files are read in place, never copied to a nearer disk."""

    def __init__(self, directory: Path) -> None:
        self.uri = directory.absolute().as_uri()
        self._directory = directory

    def path(self, name: str) -> Path:
        """Raises :class:`InvalidRequest` for names that lead out of the directory."""
        return self._directory / checked_parts(name)

    async def identity(self, name: str) -> str:
        path = self.path(name)
        try:
            status = await asyncio.to_thread(path.stat)
        except OSError as error:
            raise read_failed(path, 0, error) from error
        return f"{self.uri}/{name}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


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
