"""A whole checkpoint on its way to the disk tier, by way of little memory.

Loads bring weights into memory and write them through; this is for whoever runs a model in another
process, which then opens the files on this machine's disk.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lite_llm.contracts.errors import Internal, OutOfMemory, StorageFailed
from lite_llm.contracts.manifest import FileRecord
from lite_llm.contracts.resources import format_size
from lite_llm.contracts.tiers import Medium
from lite_llm.stores import Listing, Source
from lite_llm.tiers.cached_file import CachedFile
from lite_llm.tiers.chunks import Chunks
from lite_llm.tiers.disk_reader import DiskReader
from lite_llm.tiers.disk_tier import DiskTier
from lite_llm.tiers.extents import aligned_up
from lite_llm.tiers.incoming import IncomingFile
from lite_llm.tiers.measures import Measures
from lite_llm.tiers.progress import LoadProgress, Meter

PIECE_BYTES: Final = 4 << 20
"""Asked for at a time; or one chunk, where chunks are larger."""
PIECES: Final = 16
"""On their way at a time, each in memory of its own."""


@dataclass(frozen=True)
class _Piece:
    name: str
    chunks: range
    num_bytes: int


class Download:
    """Made by :func:`downloading`: the files are kept on disk as long as its block runs."""

    def __init__(self, listing: Listing, files: Mapping[str, IncomingFile], meter: Meter) -> None:
        self.listing = listing
        self._files = files
        self._meter = meter

    @property
    def is_complete(self) -> bool:
        """Whether every byte is here."""
        return all(_cached(file).is_complete for file in self._files.values())

    def path(self, name: str) -> Path:
        """Of a file that is complete: under a name that says nothing of it."""
        return _cached(self._files[name]).final

    def progress(self) -> AsyncIterator[LoadProgress]:
        """The state now and after changes, until the download ends."""
        return self._meter.watch()

    async def run(self, sources: Sequence[Source], *, distrusted: bool = False) -> None:
        """Bring what is missing: each piece from the first of ``sources`` that can give it.

        ``distrusted`` checks what is here already, and brings anew what differs from its checksum
        or has none. Raises what the last of them fails with, and :class:`StorageFailed` for a full
        disk.
        """
        turns = asyncio.Semaphore(PIECES)
        for file in self._files.values():
            file.sources = sources
        try:
            async with asyncio.TaskGroup() as group:
                for piece in self._pieces(distrusted=distrusted):
                    await turns.acquire()
                    task = group.create_task(self._bring(piece))
                    task.add_done_callback(lambda _: turns.release())
        except* Exception as failures:
            raise _first(failures) from None
        finally:
            self._meter.close()
        for name, file in self._files.items():
            if file.disks is not None and not _cached(file).is_complete:
                # Killed between its last byte and its name: all of it was just seen to be right.
                await file.disks.write(_cached(file), range(0), memoryview(b""))
            if not _cached(file).is_complete:
                raise _unwritten(name, file)

    async def read(self, name: str, offset: int, num_bytes: int) -> bytes:
        """Bytes of a file for a peer, once they are here; what lies beyond the end is left out."""
        file = _cached(self._files[name])
        end = min(offset + num_bytes, file.num_bytes)
        wanted = Chunks(self._files[name].record).covering(offset, max(0, end - offset))
        async for _ in self._meter.watch():
            if file.has(wanted):
                break
        if not file.has(wanted):
            raise StorageFailed(f"{name} did not come", where=name, remedy="ask another")
        return await asyncio.to_thread(_read, file, offset, end - offset)

    def _pieces(self, *, distrusted: bool) -> Iterator[_Piece]:
        for name, file in self._files.items():
            grid = Chunks(file.record)
            if distrusted and not grid.is_checked:
                _cached(file).forget(range(grid.count))
            if _cached(file).is_complete and not distrusted:
                self._meter.arrived(file.record.num_bytes)
                continue
            # What a crash left in a partial file is read back: its checksum has the last word.
            step = max(1, PIECE_BYTES // grid.size)
            for first in range(0, grid.count, step):
                chunks = file.together(range(first, min(first + step, grid.count)))
                rest = range(chunks.stop, min(first + step, grid.count))
                for part in (chunks, rest):
                    if part:
                        num_bytes = grid.start(part.stop) - grid.start(part.start)
                        yield _Piece(name, part, num_bytes)

    async def _bring(self, piece: _Piece) -> None:
        file = self._files[piece.name]
        if _cached(file).is_abandoned:  # the disk is full: no more bytes for nothing
            raise _unwritten(piece.name, file)
        with mmap.mmap(-1, aligned_up(piece.num_bytes)) as pages, memoryview(pages) as target:
            await file.bring(piece.chunks, target, self._meter)
            await file.keep(piece.chunks, target)
        self._meter.arrived(piece.num_bytes)


@asynccontextmanager
async def downloading(
    listing: Listing, disks: DiskTier, reader: DiskReader, *, measures: Measures | None = None
) -> AsyncIterator[Download]:
    """Room on disk for ``listing``, kept while the block runs; :meth:`Download.run` fills it.

    Raises :class:`OutOfMemory` where the disks' budget has no room beside what is in use.
    """
    measures = measures or Measures()
    async with AsyncExitStack() as held:
        files: dict[str, IncomingFile] = {}
        for record in listing.files:
            cached = await disks.hold(listing.identity(record), record)
            if cached is None:
                raise _no_room(listing, record)
            held.push_async_callback(disks.let_go, cached)
            file = IncomingFile(record, reader, measures)
            held.callback(file.close)
            file.disks, file.cached = disks, cached
            files[record.name] = file
        yield Download(listing, files, Meter(listing.num_bytes, measures))


def _cached(file: IncomingFile) -> CachedFile:
    if file.cached is None:
        raise Internal("a download has a file without a place on disk", where=file.record.name)
    return file.cached


def _no_room(listing: Listing, record: FileRecord) -> OutOfMemory:
    return OutOfMemory(
        f"the disk cache has no room for {record.name} of {listing.uri}, "
        f"{format_size(listing.num_bytes)} in all",
        where=Medium.NVME.name.lower(),
        remedy="raise the cache's budget, look at the disk, or unload a model",
    )


def _unwritten(name: str, file: IncomingFile) -> StorageFailed:
    return StorageFailed(
        f"{name} can't be written to {_cached(file).partial.parent}",
        where=name,
        remedy="look at the disk: it is full or failing",
    )


def _first(failures: BaseExceptionGroup[Exception]) -> Exception:
    found: BaseException = failures
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, Exception)
    return found


def _read(cached: CachedFile, offset: int, num_bytes: int) -> bytes:
    try:
        file = cached.partial.open("rb")
    except FileNotFoundError:  # it is complete, maybe since a moment ago
        file = cached.final.open("rb")
    with file:
        file.seek(offset)
        return file.read(num_bytes)
