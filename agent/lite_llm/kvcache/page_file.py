"""Cold pages in one file that no name leads to, so that it is gone when the process is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType

import xxhash

from lite_llm.contracts.errors import Corrupt, StorageFailed


@dataclass(frozen=True, kw_only=True)
class DiskPages:
    """Room for pages on disk. Reads are slower than the host's by far, so they are for prefixes
    that took long to compute."""

    directory: Path
    num_bytes: int


class PageFile:
    """Slots of one page each, with the checksums of their contents in memory.

    One thread reads and another writes, never the same slot at once."""

    def __init__(self, settings: DiskPages, page_bytes: int) -> None:
        """Raises :class:`StorageFailed` where the directory takes no file."""
        self.num_pages = settings.num_bytes // page_bytes
        self._where = f"kvcache, {settings.directory}"
        self._page_bytes = page_bytes
        self._checksums: dict[int, int] = {}
        try:
            # Closed by __exit__.
            self._file = TemporaryFile(dir=settings.directory, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise StorageFailed(
                f"no file for pages can be made: {error}",
                where=self._where,
                remedy="give a directory that exists and may be written to",
            ) from error

    def write(self, slot: int, page: memoryview) -> None:
        """Raises :class:`StorageFailed`, and then the slot holds nothing."""
        self._checksums.pop(slot, None)
        try:
            written = os.pwrite(self._file.fileno(), page, slot * self._page_bytes)
        except OSError as error:
            raise StorageFailed(str(error), where=self._where) from error
        if written != len(page):
            raise StorageFailed(f"{written} of {len(page)} bytes written", where=self._where)
        self._checksums[slot] = xxhash.xxh3_64_intdigest(page)

    def read(self, slot: int, into: memoryview) -> None:
        """Raises :class:`Corrupt` if the bytes are not those written, or none were."""
        try:
            got = os.preadv(self._file.fileno(), [into], slot * self._page_bytes)
        except OSError as error:
            raise StorageFailed(str(error), where=self._where) from error
        if got != len(into) or xxhash.xxh3_64_intdigest(into) != self._checksums.get(slot):
            raise Corrupt(f"slot {slot} differs from its checksum", where=self._where)

    def __enter__(self) -> PageFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._file.close()
