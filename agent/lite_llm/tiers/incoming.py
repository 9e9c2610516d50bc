"""One file on its way into memory: from the nearest place that has the chunk, verified, once.

A bad chunk is fetched a second time, then from the mirrors; only then is it an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from lite_llm.contracts.errors import Corrupt, LiteLLMError
from lite_llm.contracts.manifest import FileRecord
from lite_llm.contracts.tiers import Medium
from lite_llm.stores import LocalSource, ReadFailed, Source
from lite_llm.tiers.cached_file import CachedFile
from lite_llm.tiers.chunks import Chunks
from lite_llm.tiers.disk_reader import DiskFile, DiskReader, ReadTimes
from lite_llm.tiers.disk_tier import DiskTier
from lite_llm.tiers.mapped_file import MappedFile
from lite_llm.tiers.measures import Measures
from lite_llm.tiers.progress import Meter, Phase


@dataclass(eq=False)
class IncomingFile:
    """Where one file of a load can be had, nearest first."""

    record: FileRecord
    reader: DiskReader
    measures: Measures
    local: LocalSource | None = None
    sources: Sequence[Source] = ()
    """The origin, unless it is local, then its mirrors."""
    disks: DiskTier | None = None
    cached: CachedFile | None = None
    """Its place in ``disks``."""
    _opened: DiskFile | None = field(default=None, init=False)

    @property
    def grid(self) -> Chunks:
        return Chunks(self.record)

    @property
    def path(self) -> Path | None:
        """Where the whole file lies on this machine, if it does."""
        if self.local is not None:
            return self.local.path(self.record.name)
        return self.cached.final if self.cached and self.cached.is_complete else None

    @property
    def medium(self) -> Medium:
        """Where the file, or most of it, would come from now."""
        is_on_disk = self.local is not None or (self.cached and self.cached.is_complete)
        return self._disk if is_on_disk else Medium.OBJECT_STORE

    def is_here(self, chunks: range) -> bool:
        """Whether these chunks would come from a disk now, and not from a store."""
        return self.local is not None or (self.cached is not None and self.cached.has(chunks))

    def together(self, chunks: range) -> range:
        """As many of ``chunks``, from the first on, as come from one place."""
        here = self.is_here(chunks[:1])
        apart = (c for c in chunks if self.is_here(range(c, c + 1)) is not here)
        return range(chunks.start, next(apart, chunks.stop))

    async def bring(
        self, chunks: range, target: memoryview, meter: Meter, mapped: MappedFile | None = None
    ) -> None:
        """Fill ``target`` with ``chunks``, verified; of a mapped file it has the bytes already."""
        began, is_here = perf_counter(), self.is_here(chunks)
        num_bytes = self.grid.start(chunks.stop) - self.grid.start(chunks.start)
        if is_here:
            try:
                await self._read(chunks, target, num_bytes, meter, mapped)
            except (Corrupt, ReadFailed) as error:
                self.measures.failed_check(isinstance(error, Corrupt))
                if not self.sources:
                    raise
                # A copy of ours went bad; the source or its mirrors still have the truth.
                await self._mend(chunks, target, num_bytes, meter, mapped)
                is_here = False
        else:
            await self._fetch(chunks, target, num_bytes, meter)
        medium = self._disk if is_here else Medium.OBJECT_STORE
        self.measures.found(medium if mapped is None else Medium.DRAM)
        if mapped is None or not is_here:
            self.measures.moved(medium, Medium.DRAM, num_bytes, perf_counter() - began)

    async def _mend(
        self,
        chunks: range,
        target: memoryview,
        num_bytes: int,
        meter: Meter,
        mapped: MappedFile | None,
    ) -> None:
        try:
            if mapped is None:
                await self._fetch(chunks, target, num_bytes, meter)
            else:
                with memoryview(bytearray(num_bytes)) as mended:
                    await self._fetch(chunks, mended, num_bytes, meter)
                    mapped.mend(target, mended)
        finally:
            if self.cached is not None:
                self.cached.forget(chunks)
                self.measures.evicted(self.cached.medium, "corrupt")

    async def keep(self, chunks: range, view: memoryview) -> None:
        """Write chunks through to the disk tier, if they have a place there and are not there."""
        if self.disks and self.cached and not self.cached.has(chunks):
            await self.disks.write(self.cached, chunks, view)

    def close(self) -> None:
        """Close what was opened for reading."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @property
    def _disk(self) -> Medium:
        if self.local is not None:
            return self.local.medium
        assert self.cached is not None
        return self.cached.medium

    async def _read(
        self,
        chunks: range,
        target: memoryview,
        num_bytes: int,
        meter: Meter,
        mapped: MappedFile | None,
    ) -> None:
        if mapped is not None:
            times = await self.reader.confirm_chunks(mapped, self.grid, chunks, target)
        else:
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
        if not isinstance(source, LocalSource):
            is_mirror = self.local is not None or source is not self.sources[0]
            self.measures.downloaded(num_bytes, from_mirror=is_mirror)
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
        if self.grid.is_checked and times.verify:  # mapped bytes may have been verified before
            meter.add(Phase.VERIFY, num_bytes, times.verify)
