"""Chunks that came from a distant source, kept on this machine's disks for the next time.

For threads that read records: the disk tier itself lives in a loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from threading import Lock
from typing import Any, Final, TypeVar

from lite_llm.contracts.errors import Corrupt, StoreUnavailable
from lite_llm.contracts.manifest import FileRecord
from lite_llm.contracts.tiers import Medium
from lite_llm.stores import ReadFailed, Source
from lite_llm.tiers.cached_file import CachedFile
from lite_llm.tiers.chunks import Chunks
from lite_llm.tiers.disk_reader import DiskFile, DiskReader
from lite_llm.tiers.disk_tier import DiskTier

MOST_WRITING: Final = 64
"""Pieces that wait for the disk, each with its bytes; what it can't keep up with is not kept."""

T = TypeVar("T")


class KeptChunks:
    """Any thread but the loop's may read and keep. Await :meth:`let_go` when none does any more."""

    def __init__(
        self,
        disks: DiskTier,
        reader: DiskReader,
        loop: asyncio.AbstractEventLoop,
        patience: float,
    ) -> None:
        """``loop``: the one that ``disks`` lives in; ``patience``: seconds that a source may take
        to say what a file is."""
        self._disks = disks
        self._reader = reader
        self._loop = loop
        self._patience = patience
        self._files: dict[str, CachedFile | None] = {}
        self._opened: dict[str, DiskFile] = {}
        self._writing: set[Future[None]] = set()
        self._asking = Lock()
        self._opening = Lock()

    def read(
        self, source: Source, grid: Chunks, wanted: range, target: memoryview
    ) -> Medium | None:
        """Fill ``target`` with whole chunks from a disk; None if it has no good copy of them.

        Raises :class:`StoreUnavailable` where the source does not say what the file is.
        """
        held = self._hold(source, grid.record)
        if held is None or not held.has(wanted):
            return None
        try:
            self._reader.read_chunks_now(self._file(held), grid, wanted, target)
        except (Corrupt, ReadFailed):
            self._in_loop(self._disks.forget(held, wanted)).result()
            return None
        return held.medium

    def keep(self, source: Source, grid: Chunks, chunks: range, view: memoryview) -> None:
        """Have verified chunks written, beside what goes on; nobody may write to ``view`` again."""
        held = self._hold(source, grid.record)
        if held is not None and not held.has(chunks) and len(self._writing) < MOST_WRITING:
            writing = self._in_loop(self._disks.write(held, chunks, view))
            self._writing.add(writing)
            writing.add_done_callback(self._writing.discard)

    async def let_go(self) -> None:
        """Finish what is being written, and give the files' places back to the tier."""
        if self._writing:
            await asyncio.wait([*map(asyncio.wrap_future, tuple(self._writing))])
        for file in self._opened.values():
            file.close()
        self._opened.clear()
        for held in self._files.values():
            if held is not None:
                await self._disks.let_go(held)
        self._files.clear()

    def _hold(self, source: Source, record: FileRecord) -> CachedFile | None:
        if record.name not in self._files:  # a source that is slow to answer holds up no other file
            with self._asking:
                if record.name not in self._files:
                    identity = "" if record.sha256 else self._identity(source, record)
                    holding = self._in_loop(self._disks.hold(identity, record))
                    self._files[record.name] = holding.result()
        return self._files[record.name]

    def _identity(self, source: Source, record: FileRecord) -> str:
        asking = self._in_loop(source.identity(record.name))
        try:
            return asking.result(self._patience)
        except (TimeoutError, CancelledError, OSError) as error:
            asking.cancel()
            raise StoreUnavailable(
                f"{source.uri} did not say what its {record.name} is",
                where=record.name,
                remedy="look at the store, or keep the model on a disk",
            ) from error

    def _in_loop(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _file(self, held: CachedFile) -> DiskFile:
        with self._opening:
            if held.key not in self._opened:
                self._opened[held.key] = DiskFile(held.path)
            return self._opened[held.key]
