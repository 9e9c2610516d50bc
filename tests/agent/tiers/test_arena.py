"""Owners and leases: every misuse is a typed error, and nothing leaks under eight threads."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lite_llm.contracts.errors import InvalidSettings, OutOfMemory
from lite_llm.tiers import memory
from lite_llm.tiers.arena import Arena
from lite_llm.tiers.extents import GRANULE
from lite_llm.tiers.failures import StillLeased, UseAfterRelease
from lite_llm.tiers.memory import HostMemory

ROOM = 64 * GRANULE


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena("dram", HostMemory(ROOM))
    yield arena
    arena.check()
    arena.close()


def test_blocks_lie_on_page_borders_and_count_against_the_budget(arena: Arena) -> None:
    blocks = [arena.allocate(n, owner="a") for n in (1, 5000, GRANULE)]
    for block in blocks:
        with block.write() as lease:
            address = np.frombuffer(lease.view, np.uint8).ctypes.data
            assert address % GRANULE == 0
    assert arena.used_bytes == 4 * GRANULE
    for block in blocks:
        block.free()
    assert arena.used_bytes == 0


def test_a_full_arena_says_what_is_there_and_stays_as_it_was(arena: Arena) -> None:
    block = arena.allocate(ROOM - GRANULE, owner="a")
    with pytest.raises(OutOfMemory, match=r"dram has no room for 8\.0 KiB: 4\.0 KiB free"):
        arena.allocate(2 * GRANULE, owner="b")
    assert arena.used_bytes == ROOM - GRANULE
    block.free()


def test_readers_share_and_a_writer_needs_its_range_alone(arena: Arena) -> None:
    block = arena.allocate(4 * GRANULE, owner="a")
    with block.read(0, GRANULE), block.read(0, 2 * GRANULE):
        with pytest.raises(StillLeased, match="for reading"):
            block.write()
        with block.write(2 * GRANULE, GRANULE), pytest.raises(StillLeased, match="for writing"):
            block.read()
    with block.write() as only:
        only.view[:3] = b"abc"
        with pytest.raises(StillLeased):
            block.write(GRANULE, 1)
    with block.read() as lease:
        assert bytes(lease.view[:3]) == b"abc"
        assert lease.view.readonly
    block.free()


def test_use_after_release_and_after_free_raise(arena: Arena) -> None:
    block = arena.allocate(10, owner="a")
    lease = block.read()
    kept = lease.view
    lease.release()
    lease.release()
    with pytest.raises(UseAfterRelease):
        _ = lease.view
    with pytest.raises(ValueError, match="released memoryview"):
        bytes(kept)
    block.free()
    for use in (block.read, block.write, block.free, lambda: block.handed_to("b")):
        with pytest.raises(UseAfterRelease, match="block of a"):
            use()


def test_a_handed_over_block_keeps_its_bytes_and_kills_the_old_handle(arena: Arena) -> None:
    block = arena.allocate(10, owner="a")
    with block.write() as lease:
        lease.view[:] = b"0123456789"
    successor = block.handed_to("b")
    with pytest.raises(UseAfterRelease):
        block.read()
    with successor.read() as lease:
        assert bytes(lease.view) == b"0123456789"
    successor.free()


def test_nothing_leased_can_be_freed_nor_outlived_by_arrays(arena: Arena) -> None:
    block = arena.allocate(GRANULE, owner="a")
    lease = block.read()
    with pytest.raises(StillLeased, match="can't be freed"):
        block.free()
    with pytest.raises(StillLeased):
        arena.close()
    array = np.frombuffer(lease.view, np.uint8)
    with pytest.raises(StillLeased, match="arrays over"):
        lease.release()
    del array
    lease.release()
    block.free()


def test_defragmentation_makes_room_and_moves_no_leased_block(arena: Arena) -> None:
    blocks = [arena.allocate(8 * GRANULE, owner=str(n)) for n in range(8)]
    for number, block in enumerate(blocks):
        with block.write() as lease:
            lease.view[:1] = bytes([number])
    held = blocks[5].read()
    for number in (0, 2, 4):
        blocks[number].free()
    large = arena.allocate(16 * GRANULE, owner="large")
    assert blocks[5].offset == 40 * GRANULE
    assert bytes(held.view[:1]) == b"\x05"
    held.release()
    for number in (1, 3, 6, 7):
        with blocks[number].read() as lease:
            assert lease.view[0] == number
    for block in (large, *(blocks[n] for n in (1, 3, 5, 6, 7))):
        block.free()


def test_eight_threads_leak_nothing_and_read_nothing_torn(arena: Arena) -> None:
    def work(seed: int) -> int:
        chance, refused = random.Random(seed), 0
        for _ in range(150):
            try:
                block = arena.allocate(chance.randint(1, 12 * GRANULE), owner=str(seed))
            except OutOfMemory:
                refused += 1
                continue
            with block.write() as lease:
                lease.view[:] = bytes([seed]) * block.num_bytes
            with block.read() as one, block.read() as two:
                assert set(one.view) == {seed}
                assert one.view[-1] == two.view[-1] == seed
            block.free()
        return refused

    with ThreadPoolExecutor(8) as pool:
        refused = sum(pool.map(work, range(1, 9)))
    assert refused < 8 * 150
    assert arena.used_bytes == 0


@pytest.mark.parametrize("num_bytes", [0, -GRANULE, 100])
def test_impossible_sizes_are_refused(num_bytes: int) -> None:
    with pytest.raises(InvalidSettings):
        HostMemory(num_bytes)


def test_memory_that_the_system_does_not_have_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(OutOfMemory, match="refuses"):
        HostMemory(1 << 60)


def test_pages_are_locked_or_the_reason_is_told() -> None:
    """Once as we are, once in a child without the right to lock."""
    ours = HostMemory(ROOM)
    assert ours.pinned in {"mlock", "cuda"} or ours.why_not_pinned.startswith("mlock: ")
    ours.close()
    code = (
        "import ctypes, resource; from lite_llm.tiers.memory import HostMemory\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))\n"
        "ctypes.CDLL(None).prctl(24, 14, 0, 0, 0)  # drop CAP_IPC_LOCK from the bounding set\n"
        "import os; os.setuid(65534) if os.getuid() == 0 else None\n"
        "memory = HostMemory(65536); memory.view(0, 4)[:] = b'abcd'\n"
        "print(memory.pinned or memory.why_not_pinned)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.stdout.startswith("mlock: "), child.stdout + child.stderr


def test_without_a_device_its_arena_lies_in_ordinary_memory() -> None:
    assert memory.cupy() is None or hasattr(memory.cupy(), "cuda")
    arena = Arena("gpu", memory.device_memory(ROOM))
    block = arena.allocate(100, owner="a")
    block.free()
    arena.close()


def test_an_arena_takes_no_more_resident_memory_than_its_budget() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    arena = Arena("dram", HostMemory(32 << 20))
    block = arena.allocate(32 << 20, owner="a")
    with block.write() as lease:
        lease.view[:] = bytes(32 << 20)
    block.free()
    arena.close()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown <= (32 << 20) * 2 + (16 << 20)  # the arena, and the zeros written into it
