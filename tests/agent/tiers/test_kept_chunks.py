"""What threads keep of a distant source: bad chunks, full disks and stores that say nothing."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import xxhash

from lite_llm.contracts.errors import StoreUnavailable
from lite_llm.contracts.manifest import FileRecord
from lite_llm.contracts.tiers import Medium
from lite_llm.tiers import DiskBudget, DiskReader, DiskTier
from lite_llm.tiers.chunks import Chunks
from lite_llm.tiers.kept_chunks import KeptChunks

CHUNK, COUNT = 4096, 24
DATA = os.urandom(CHUNK * COUNT)


def chunk(index: int) -> bytes:
    return DATA[index * CHUNK : (index + 1) * CHUNK]


def grid(name: str = "f") -> Chunks:
    sums = tuple(xxhash.xxh3_64_intdigest(chunk(index)) for index in range(COUNT))
    return Chunks(FileRecord(name, len(DATA), chunk_bytes=CHUNK, chunk_checksums=sums))


class Store:
    """Says what a file is, unless it is silent."""

    uri = "test://store"
    is_silent = False

    async def identity(self, name: str) -> str:
        if self.is_silent:
            await asyncio.Event().wait()
        return name

    async def read(self, name: str, offset: int, target: memoryview) -> None:
        raise AssertionError("nothing is fetched here")

    async def close(self) -> None:
        """There is nothing to close."""


@dataclass
class Bench:
    directory: Path
    disks: DiskTier
    reader: DiskReader
    store: Store = field(default_factory=Store)

    def kept(self, patience: float = 60.0) -> KeptChunks:
        return KeptChunks(self.disks, self.reader, asyncio.get_running_loop(), patience)

    def read(self, kept: KeptChunks, index: int, name: str = "f") -> bytes | None:
        target = bytearray(CHUNK)
        wanted = range(index, index + 1)
        found = kept.read(self.store, grid(name), wanted, memoryview(target))
        return None if found is None else bytes(target)

    def keep(self, kept: KeptChunks, index: int) -> None:
        wanted = range(index, index + 1)
        kept.keep(self.store, grid(), wanted, memoryview(bytearray(chunk(index))))

    async def on_threads(self, work: Any, kept: KeptChunks, indices: Sequence[int]) -> list[Any]:
        def run() -> list[Any]:
            with ThreadPoolExecutor(8) as pool:
                return [*pool.map(lambda index: work(kept, index), indices)]

        return await asyncio.to_thread(run)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    reader = DiskReader(threads=1)
    budget = DiskBudget(directory=tmp_path, num_bytes=1 << 20)
    async with DiskTier({Medium.NVME: budget}) as disks:
        yield Bench(tmp_path, disks, reader)
    reader.close()


async def test_all_that_threads_keep_at_once_is_written_before_files_are_let_go(
    bench: Bench,
) -> None:
    kept = bench.kept()
    await bench.on_threads(bench.keep, kept, range(COUNT))
    await kept.let_go()
    (path,) = bench.directory.glob("objects/*/*")
    assert path.read_bytes() == DATA


async def test_chunks_that_go_bad_are_missed_by_each_thread_and_kept_again(bench: Bench) -> None:
    kept = bench.kept()
    await bench.on_threads(bench.keep, kept, range(COUNT))
    await kept.let_go()
    (path,) = bench.directory.glob("objects/*/*")
    path.write_bytes(bytes(len(DATA)))
    kept = bench.kept()
    # All find the same complete file bad at once.
    assert not any(await bench.on_threads(bench.read, kept, range(COUNT)))
    await bench.on_threads(bench.keep, kept, range(COUNT))
    await kept.let_go()
    assert await bench.on_threads(bench.read, kept, range(COUNT)) == [*map(chunk, range(COUNT))]
    await kept.let_go()


async def test_a_full_disk_ends_the_keeping_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    kept = bench.kept()
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        await bench.on_threads(bench.keep, kept, range(COUNT))
        await kept.let_go()
    assert not any(path.stat().st_size for path in bench.directory.rglob("*") if path.is_file())
    kept = bench.kept()
    await bench.on_threads(bench.keep, kept, [3])
    await kept.let_go()
    assert await bench.on_threads(bench.read, kept, [3, 4]) == [chunk(3), None]
    await kept.let_go()


async def test_a_store_that_says_nothing_is_away_and_holds_up_no_file_that_is_known(
    bench: Bench,
) -> None:
    kept = bench.kept(patience=0.2)
    await bench.on_threads(bench.keep, kept, [0])
    bench.store.is_silent = True
    with pytest.raises(StoreUnavailable, match="did not say"):
        await asyncio.to_thread(bench.read, kept, 0, "other")
    with kept._asking:  # as held by a thread that waits for an answer
        assert await asyncio.to_thread(bench.read, kept, 0) in (chunk(0), None)
    await kept.let_go()
