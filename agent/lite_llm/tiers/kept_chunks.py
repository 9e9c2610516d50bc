"""Chunks that came from a distant source, kept on this machine's disks for the next time.

For threads that read records: the disk tier itself lives in a loop.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from threading import Lock

from lite_llm.contracts.errors import Corrupt
from lite_llm.contracts.manifest import FileRecord
from lite_llm.contracts.tiers import Medium
from lite_llm.stores import ReadFailed, Source
from lite_llm.tiers.cached_file import CachedFile
from lite_llm.tiers.chunks import Chunks
from lite_llm.tiers.disk_reader import DiskFile, DiskReader
from lite_llm.tiers.disk_tier import DiskTier


class KeptChunks:
    """Any thread but the loop's may read and keep. Await :meth:`let_go` when none does any more."""

    def __init__(
        self, disks: DiskTier, reader: DiskReader, loop: asyncio.AbstractEventLoop
    ) -> None:
        """``loop``: the one that ``disks`` lives in."""
        self._disks = disks
        self._reader = reader
        self._loop = loop
        self._files: dict[str, CachedFile | None] = {}
        self._opened: dict[str, DiskFile] = {}
        self._writing: list[Future[None]] = []
        self._asking = Lock()

    def read(
        self, source: Source, grid: Chunks, wanted: range, target: memoryview
    ) -> Medium | None:
        """Fill ``target`` with whole chunks from a disk; None if it has no good copy of them."""
        held = self._hold(source, grid.record)
        if held is None or not held.has(wanted):
            return None
        try:
            self._reader.read_chunks_now(self._file(held), grid, wanted, target)
        except (Corrupt, ReadFailed):
            held.forget(wanted)
            return None
        return held.medium

    def keep(self, source: Source, grid: Chunks, chunks: range, view: memoryview) -> None:
        """Have verified chunks written, beside what goes on; nobody may write to ``view`` again."""
        held = self._hold(source, grid.record)
        if held is not None and not held.has(chunks):
            writing = self._disks.write(held, chunks, view)
            self._writing = [each for each in self._writing if not each.done()]
            self._writing.append(asyncio.run_coroutine_threadsafe(writing, self._loop))

    async def let_go(self) -> None:
        """Finish what is being written, and give the files' places back to the tier."""
        for writing in self._writing:
            await asyncio.wrap_future(writing)
        self._writing.clear()
        for file in self._opened.values():
            file.close()
        self._opened.clear()
        for held in self._files.values():
            if held is not None:
                await self._disks.let_go(held)
        self._files.clear()

    def _hold(self, source: Source, record: FileRecord) -> CachedFile | None:
        async def hold() -> CachedFile | None:
            return await self._disks.hold(await source.identity(record.name), record)

        with self._asking:
            if record.name not in self._files:
                asking = asyncio.run_coroutine_threadsafe(hold(), self._loop)
                self._files[record.name] = asking.result()
            return self._files[record.name]

    def _file(self, held: CachedFile) -> DiskFile:
        with self._asking:
            if held.key not in self._opened:
                self._opened[held.key] = DiskFile(held.path)
            return self._opened[held.key]
