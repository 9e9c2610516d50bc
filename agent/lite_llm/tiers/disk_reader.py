"""Parallel reads from local files straight into arena memory, verified on the threads that read.

Cold bytes come by O_DIRECT: the page cache would cost a second copy and push out what others need.
Bytes that are in the page cache already are copied from there, which is several times faster than
the disk.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Self, TypeVar

from lite_llm.stores import ReadFailed, ShortRead, read_failed
from lite_llm.tiers.chunks import Chunks
from lite_llm.tiers.extents import GRANULE, aligned_down, aligned_up
from lite_llm.tiers.mapped_file import MappedFile
from lite_llm.tiers.page_cache import is_cached
from lite_llm.tiers.threads import on_thread

T = TypeVar("T")
Preadv = Callable[[int, list[memoryview], int, int], int]


@dataclass(frozen=True, slots=True)
class ReadTimes:
    """Seconds of one thread; ``refetched`` counts chunks that were good at the second look."""

    read: float
    verify: float
    refetched: int = 0


class DiskFile:
    """A file opened for both kinds of reading; close it, or use it as a with-block."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`ReadFailed` if it can't be opened."""
        self.path = path
        try:
            self.buffered = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise read_failed(path, 0, error) from error
        try:
            self.direct = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError:  # tmpfs before Linux 6.6, some network file systems, /proc
            self.direct = -1

    def close(self) -> None:
        """Twice is harmless."""
        for descriptor in {self.buffered, self.direct} - {-1}:
            os.close(descriptor)
        self.buffered = self.direct = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class DiskReader:
    """Reading threads, shared by all loads of an agent."""

    def __init__(self, *, threads: int = 4, preadv: Preadv = os.preadv) -> None:
        """``threads`` is the queue depth that the disks see."""
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tiers-read")
        self._preadv = preadv

    async def read(
        self, file: DiskFile, offset: int, num_bytes: int, target: memoryview
    ) -> ReadTimes:
        """Fill ``target`` from ``offset``, without a check (see :meth:`read_now`).

        A cancelled call returns only when its thread has let go of ``target``.
        """
        return await self.submit(self.read_now, file, offset, num_bytes, target)

    async def read_chunks(
        self, file: DiskFile, chunks: Chunks, wanted: range, target: memoryview
    ) -> ReadTimes:
        """Read and verify whole chunks (see :meth:`read_chunks_now`)."""
        return await self.submit(self.read_chunks_now, file, chunks, wanted, target)

    async def submit(self, work: Callable[..., T], *args: object) -> T:
        """Run ``work`` on a reading thread."""
        return await on_thread(self._pool, work, *args)

    def read_chunks_now(
        self, file: DiskFile, chunks: Chunks, wanted: range, target: memoryview
    ) -> ReadTimes:
        """Read and verify; a bad chunk is read once more, from the disk itself.

        Raises :class:`Corrupt` with file, chunk and offset if it is bad again.
        """
        start, end = chunks.start(wanted.start), chunks.start(wanted.stop)
        read = self.read_now(file, start, end - start, target).read

        def read_again(offset: int, num_bytes: int) -> None:
            os.posix_fadvise(file.buffered, offset, num_bytes, os.POSIX_FADV_DONTNEED)
            with target[offset - start :] as again:
                self.read_now(file, offset, num_bytes, again)

        return _verified(chunks, wanted, target, read, read_again, str(file.path))

    async def confirm_chunks(
        self, file: MappedFile, chunks: Chunks, wanted: range, target: memoryview
    ) -> ReadTimes:
        """Touch and verify whole chunks where they are mapped (see :meth:`read_chunks_now`)."""
        return await self.submit(self._confirm_chunks_now, file, chunks, wanted, target)

    def _confirm_chunks_now(
        self, file: MappedFile, chunks: Chunks, wanted: range, target: memoryview
    ) -> ReadTimes:
        began, start = perf_counter(), chunks.start(wanted.start)
        file.populate(start, chunks.start(wanted.stop) - start)
        read = perf_counter() - began
        if wanted in file.verified:
            return ReadTimes(read, 0.0)
        times = _verified(chunks, wanted, target, read, file.look_again, str(file.path))
        file.verified.add(wanted)
        return times

    def read_now(
        self, file: DiskFile, offset: int, num_bytes: int, target: memoryview
    ) -> ReadTimes:
        """Fill ``target[:num_bytes]`` from ``offset``.

        Direct where ``offset`` and ``target`` are aligned and ``target`` has room for the last page
        as a whole. Raises :class:`ShortRead` and :class:`ReadFailed` with file and offset.
        """
        began = perf_counter()
        done = self._from_page_cache(file, offset, num_bytes, target)
        if file.direct >= 0 and done < num_bytes:
            done = self._direct(file, offset, aligned_down(done), num_bytes, target)
        while done < num_bytes:
            count = self._read(file, file.buffered, offset, target, done, num_bytes)
            if count == 0:
                raise ShortRead(
                    f"{file.path} ends at {offset + done}, {num_bytes - done} bytes early",
                    where=f"{file.path} offset {offset + done}",
                )
            done += count
        return ReadTimes(perf_counter() - began, 0.0)

    def _from_page_cache(
        self, file: DiskFile, offset: int, num_bytes: int, target: memoryview
    ) -> int:
        if not is_cached(file.buffered, offset, num_bytes):
            return 0
        with target[:num_bytes] as view:
            try:
                return self._preadv(file.buffered, [view], offset, os.RWF_NOWAIT)
            except OSError:  # EAGAIN: no longer there; EOPNOTSUPP: this file system can't tell
                return 0

    def _direct(
        self, file: DiskFile, offset: int, done: int, num_bytes: int, target: memoryview
    ) -> int:
        stop = min(aligned_up(num_bytes), len(target))
        while done < num_bytes:
            try:
                count = self._read(file, file.direct, offset, target, done, stop)
            except ReadFailed as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EINVAL:
                    return done  # not aligned as this disk wants it
                raise
            done += count
            if count % GRANULE or count == 0:  # the file's end
                break
        return min(done, num_bytes)

    def _read(
        self,
        file: DiskFile,
        descriptor: int,
        offset: int,
        target: memoryview,
        start: int,
        stop: int,
    ) -> int:
        # Slices are released at once: in the traceback of an error they would hold the arena.
        with target[start:stop] as view:
            try:
                return self._preadv(descriptor, [view], offset + start, 0)
            except OSError as error:
                raise read_failed(file.path, offset + start, error) from error

    def close(self) -> None:
        """Wait for reads under way and end the threads."""
        self._pool.shutdown()


def _verified(
    chunks: Chunks,
    wanted: range,
    target: memoryview,
    read: float,
    read_again: Callable[[int, int], None],
    found_in: str,
) -> ReadTimes:
    """Each chunk seen to be right, at the second look if need be; ``read`` are seconds so far."""
    began, refetched, left = perf_counter(), 0, wanted
    while (bad := _first_bad(chunks, left, target, wanted)) is not None:
        here = chunks.start(bad)
        read_again(here, chunks.start(bad + 1) - here)
        if _first_bad(chunks, range(bad, bad + 1), target, wanted) is not None:
            raise chunks.corrupt(bad, found_in)
        refetched, left = refetched + 1, range(bad + 1, wanted.stop)
    return ReadTimes(read, perf_counter() - began, refetched)


def _first_bad(chunks: Chunks, left: range, target: memoryview, wanted: range) -> int | None:
    with target[chunks.start(left.start) - chunks.start(wanted.start) :] as view:
        return chunks.first_bad(left, view)
