"""One file on its way into memory: from the nearest place that has the chunk, verified, once.

A bad chunk is fetched a second time, then from the mirrors; only then is it an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

from lite_llm.contracts.errors import Corrupt, LiteLLMError
from lite_llm.contracts.manifest import FileRecord
from lite_llm.contracts.tiers import Medium
from lite_llm.tiers.cached_file import CachedFile
from lite_llm.tiers.chunks import Chunks
from lite_llm.tiers.disk_reader import DiskFile, DiskReader, ReadTimes
from lite_llm.tiers.disk_tier import DiskTier
from lite_llm.tiers.failures import ReadFailed
from lite_llm.tiers.measures import Measures
from lite_llm.tiers.progress import Meter, Phase
from lite_llm.tiers.source import LocalSource, Source


@dataclass(eq=False)
class IncomingFile:
    """Where one file of a load can be had, nearest first."""

    record: FileRecord
    reader: DiskReader
    measures: Measures
    local: LocalSource | None = None
    sources: Sequence[Source] = ()
    """The origin, then its mirrors."""
    disks: DiskTier | None = None
    cached: CachedFile | None = None
    """Its place in ``disks``."""
    _opened: DiskFile | None = field(default=None, init=False)

    @property
    def grid(self) -> Chunks:
        return Chunks(self.record)

    def medium_of(self, chunks: range) -> Medium:
        """Where these chunks would come from now."""
        if self.local is not None:
            return Medium.NVME
        if self.cached is not None and self.cached.has(chunks):
            return self.cached.medium
        return Medium.OBJECT_STORE

    def together(self, chunks: range) -> range:
        """As many of ``chunks``, from the first on, as come from one place."""
        place = self.medium_of(chunks[:1])
        apart = (c for c in chunks if self.medium_of(range(c, c + 1)) is not place)
        return range(chunks.start, next(apart, chunks.stop))

    async def bring(self, chunks: range, target: memoryview, meter: Meter) -> None:
        """Fill ``target`` with ``chunks``, verified."""
        medium, began = self.medium_of(chunks), perf_counter()
        num_bytes = self.grid.start(chunks.stop) - self.grid.start(chunks.start)
        if medium is not Medium.OBJECT_STORE:
            try:
                await self._read(chunks, target, num_bytes, meter)
            except (Corrupt, ReadFailed) as error:
                self.measures.failed_check(isinstance(error, Corrupt))
                if self.cached is None:
                    raise
                # A copy of ours went bad; the source still has the truth.
                self.cached.forget(chunks)
                medium = Medium.OBJECT_STORE
        if medium is Medium.OBJECT_STORE:
            await self._fetch(chunks, target, num_bytes, meter)
        self.measures.found(medium)
        self.measures.moved(medium, num_bytes, perf_counter() - began)

    async def keep(self, chunks: range, view: memoryview) -> None:
        """Write chunks through to the disk tier, if they have a place there and are not there."""
        if self.disks and self.cached and not self.cached.has(chunks):
            await self.disks.write(self.cached, chunks, view)

    def close(self) -> None:
        """Close what was opened for reading."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    async def _read(self, chunks: range, target: memoryview, num_bytes: int, meter: Meter) -> None:
        if self._opened is None:
            if self.local is not None:
                self._opened = DiskFile(self.local.path(self.record.name))
            else:
                assert self.cached is not None
                self._opened = DiskFile(self.cached.path)
        times = await self.reader.read_chunks(self._opened, self.grid, chunks, target)
        meter.add(Phase.READ, num_bytes, times.read)
        self._verified(num_bytes, times, meter)
        self.measures.failed_check(times.refetched)

    async def _fetch(self, chunks: range, target: memoryview, num_bytes: int, meter: Meter) -> None:
        for source in self.sources:
            try:
                await self._fill(source, chunks, target, meter)
                await self._verify(source, chunks, target, meter)
            except LiteLLMError:
                if source is self.sources[-1]:
                    raise
            else:
                return

    async def _fill(self, source: Source, chunks: range, target: memoryview, meter: Meter) -> None:
        began, start = perf_counter(), self.grid.start(chunks.start)
        num_bytes = self.grid.start(chunks.stop) - start
        with target[:num_bytes] as part:
            await source.read(self.record.name, start, part)
        self.measures.downloaded(num_bytes, from_mirror=source is not self.sources[0])
        meter.add(Phase.FETCH, num_bytes, perf_counter() - began)

    async def _verify(
        self, source: Source, chunks: range, target: memoryview, meter: Meter
    ) -> None:
        left, origin = chunks, self.grid.start(chunks.start)
        while left:
            with target[self.grid.start(left.start) - origin :] as rest:
                bad = await self._first_bad(left, rest, meter)
            if bad is None:
                return
            self.measures.failed_check()
            again = range(bad, bad + 1)
            with target[self.grid.start(bad) - origin :] as rest:
                await self._fill(source, again, rest, meter)
                if await self._first_bad(again, rest, meter) is not None:
                    raise self.grid.corrupt(bad, f"{source.uri}/{self.record.name}")
            left = range(bad + 1, chunks.stop)

    async def _first_bad(self, chunks: range, target: memoryview, meter: Meter) -> int | None:
        if not self.grid.is_checked:
            return None
        found: list[int | None] = []

        def check() -> ReadTimes:
            began = perf_counter()
            found.append(self.grid.first_bad(chunks, target))
            return ReadTimes(0.0, perf_counter() - began)

        times = await self.reader.submit(check)
        self._verified(self.grid.start(chunks.stop) - self.grid.start(chunks.start), times, meter)
        return found[0]

    def _verified(self, num_bytes: int, times: ReadTimes, meter: Meter) -> None:
        if self.grid.is_checked:
            meter.add(Phase.VERIFY, num_bytes, times.verify)
