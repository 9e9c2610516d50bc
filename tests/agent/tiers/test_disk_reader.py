"""Reads that are direct, warm, short, failing and corrupt, from real files."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import xxhash

from lite_llm.contracts.errors import Corrupt
from lite_llm.contracts.manifest import FileRecord
from lite_llm.stores import ReadFailed, ShortRead
from lite_llm.tiers.arena import Arena
from lite_llm.tiers.chunks import Chunks
from lite_llm.tiers.disk_reader import DiskFile, DiskReader
from lite_llm.tiers.extents import GRANULE, aligned_up
from lite_llm.tiers.memory import HostMemory
from lite_llm.tiers.page_cache import is_cached

SIZE = 300_001
CHUNK = 64 << 10
HAS_CACHESTAT = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 5)


@pytest.fixture
def target() -> Iterator[memoryview]:
    arena = Arena("dram", HostMemory(1 << 20))
    block = arena.allocate(1 << 20, owner="test")
    lease = block.write()
    yield lease.view
    lease.release()
    arena.close()


@pytest.fixture
def reader() -> Iterator[DiskReader]:
    reader = DiskReader(threads=2)
    yield reader
    reader.close()


@pytest.fixture
def content() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture
def path(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    return path


def chill(path: Path) -> None:
    """Push the file out of the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def chunks_of(content: bytes, *, bad: int | None = None) -> Chunks:
    sums = [
        xxhash.xxh3_64_intdigest(content[at : at + CHUNK]) for at in range(0, len(content), CHUNK)
    ]
    if bad is not None:
        sums[bad] ^= 1
    return Chunks(
        FileRecord("weights.bin", len(content), chunk_bytes=CHUNK, chunk_checksums=tuple(sums))
    )


@pytest.mark.parametrize("cold", [True, False])
@pytest.mark.parametrize(
    ("offset", "num_bytes"),
    [(0, SIZE), (GRANULE, 5 * GRANULE), (8 * GRANULE, SIZE - 8 * GRANULE), (17, 1000), (0, 1)],
)
async def test_every_range_arrives_cold_and_warm(
    reader: DiskReader, path: Path, content: bytes, target: memoryview,
    offset: int, num_bytes: int, cold: bool,
) -> None:  # fmt: skip
    if cold:
        chill(path)
    with DiskFile(path) as file:
        await reader.read(file, offset, num_bytes, target)
    assert bytes(target[:num_bytes]) == content[offset : offset + num_bytes]


async def test_cold_bytes_come_directly_and_warm_ones_from_the_cache(
    path: Path, target: memoryview
) -> None:
    seen: list[tuple[int, int, int]] = []

    def spy(descriptor: int, views: list[memoryview], offset: int, flags: int) -> int:
        count = os.preadv(descriptor, views, offset, flags)
        seen.append((descriptor, flags, count))
        return count

    reader = DiskReader(threads=1, preadv=spy)
    with DiskFile(path) as file:
        chill(path)
        await reader.read(file, 0, SIZE, target)
        if file.direct >= 0:
            assert seen == [(file.direct, 0, SIZE)]
        assert not is_cached(file.buffered, 0, SIZE), "a cold read must leave no trace"
        seen.clear()
        await asyncio.to_thread(path.read_bytes)
        await reader.read(file, 0, SIZE, target)
        if HAS_CACHESTAT:
            assert seen == [(file.buffered, os.RWF_NOWAIT, SIZE)]
    reader.close()


def test_the_page_cache_can_be_asked(path: Path, target: memoryview) -> None:
    with DiskFile(path) as file:
        chill(path)
        assert not is_cached(file.buffered, 0, SIZE)
        path.read_bytes()
        assert is_cached(file.buffered, 0, SIZE) is HAS_CACHESTAT
        assert is_cached(file.buffered, 5, 10) is HAS_CACHESTAT
    assert not is_cached(-1, 0, 1)


async def test_a_file_system_without_direct_reads_is_read_buffered(
    reader: DiskReader, target: memoryview
) -> None:
    shm = Path("/dev/shm") / f"lite-llm-test-{os.getpid()}"
    shm.write_bytes(b"x" * SIZE)
    try:
        with DiskFile(shm) as file:
            await reader.read(file, 0, SIZE, target)
    finally:
        shm.unlink()
    assert bytes(target[:SIZE]) == b"x" * SIZE


async def test_einval_falls_back_to_buffered_reads(
    path: Path, content: bytes, target: memoryview
) -> None:
    direct = -1

    def picky(descriptor: int, views: list[memoryview], offset: int, flags: int) -> int:
        if descriptor == direct:
            raise OSError(errno.EINVAL, "Invalid argument")
        if flags:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return os.preadv(descriptor, views, offset, flags)

    reader = DiskReader(threads=1, preadv=picky)
    with DiskFile(path) as file:
        direct = file.direct
        await reader.read(file, 0, SIZE, target)
    assert bytes(target[:SIZE]) == content
    reader.close()


async def test_many_short_counts_still_make_a_whole(
    path: Path, content: bytes, target: memoryview
) -> None:
    def stingy(descriptor: int, views: list[memoryview], offset: int, flags: int) -> int:
        return os.preadv(descriptor, [views[0][:GRANULE]], offset, flags)

    reader = DiskReader(threads=1, preadv=stingy)
    chill(path)
    with DiskFile(path) as file:
        await reader.read(file, 0, SIZE, target)
    assert bytes(target[:SIZE]) == content
    reader.close()


async def test_a_file_that_is_too_short_is_named_with_the_offset(
    reader: DiskReader, path: Path, target: memoryview
) -> None:
    with DiskFile(path) as file:
        os.truncate(path, 200_000)
        with pytest.raises(ShortRead, match=r"weights\.bin ends at 200000, 100001 bytes early"):
            await reader.read(file, 0, SIZE, target)


async def test_an_input_output_error_is_named_with_the_offset(
    reader: DiskReader, target: memoryview
) -> None:
    # The kernel's own EIO: no page is mapped at address 0 of this process.
    with (
        DiskFile(Path("/proc/self/mem")) as file,
        pytest.raises(ReadFailed, match="reading /proc/self/mem at 0 failed: Input/output error"),
    ):
        await reader.read(file, 0, GRANULE, target)


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ReadFailed, match="No such file"):
        DiskFile(tmp_path / "nothing")


async def test_good_chunks_pass_and_tell_their_times(
    reader: DiskReader, path: Path, content: bytes, target: memoryview
) -> None:
    chunks = chunks_of(content)
    with DiskFile(path) as file:
        times = await reader.read_chunks(file, chunks, range(chunks.count), target)
    assert bytes(target[:SIZE]) == content
    assert times.read > 0
    assert times.verify > 0
    assert times.refetched == 0


async def test_a_bad_chunk_is_named_with_file_chunk_and_offset(
    reader: DiskReader, path: Path, content: bytes, target: memoryview
) -> None:
    chunks = chunks_of(content, bad=2)
    with (
        DiskFile(path) as file,
        pytest.raises(Corrupt, match=rf"chunk 2 of weights\.bin \(offset {2 * CHUNK}\)") as caught,
    ):
        await reader.read_chunks(file, chunks, range(1, chunks.count), target)
    assert caught.value.where == str(path)


async def test_a_chunk_that_is_bad_only_once_is_read_again(
    path: Path, content: bytes, target: memoryview
) -> None:
    flips = iter([True])

    def glitch(descriptor: int, views: list[memoryview], offset: int, flags: int) -> int:
        count = os.preadv(descriptor, views, offset, flags)
        if next(flips, False):
            views[0][CHUNK + 5] ^= 0xFF
        return count

    reader, chunks = DiskReader(threads=1, preadv=glitch), chunks_of(content)
    with DiskFile(path) as file:
        times = await reader.read_chunks(file, chunks, range(chunks.count), target)
    assert times.refetched == 1
    assert bytes(target[:SIZE]) == content
    reader.close()


async def test_cancelling_waits_for_the_thread_to_let_go(path: Path, target: memoryview) -> None:
    entered, go, finished = threading.Event(), threading.Event(), threading.Event()

    def slow(descriptor: int, views: list[memoryview], offset: int, flags: int) -> int:
        entered.set()
        go.wait(30)
        count = os.preadv(descriptor, views, offset, flags & ~os.RWF_NOWAIT)
        finished.set()
        return count

    reader = DiskReader(threads=1, preadv=slow)
    with DiskFile(path) as file:
        task = asyncio.create_task(reader.read(file, 0, aligned_up(1000), target))
        await asyncio.to_thread(entered.wait, 30)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert finished.is_set()
    reader.close()


def test_the_grid_covers_every_byte_once() -> None:
    chunks = Chunks(FileRecord("f", 10 * CHUNK + 1, chunk_bytes=CHUNK))
    assert chunks.count == 11
    assert chunks.start(11) == 10 * CHUNK + 1
    assert chunks.covering(CHUNK - 1, 2) == range(2)
    assert chunks.covering(CHUNK, CHUNK) == range(1, 2)
    unchecked = Chunks(FileRecord("f", 5))
    assert not unchecked.is_checked
    assert unchecked.count == 1
    assert unchecked.first_bad(range(1), memoryview(b"12345")) is None
