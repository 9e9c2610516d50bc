"""The nearest tier: in ordinary memory everywhere, and on a CUDA device where there is one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lite_llm.contracts.errors import OutOfMemory
from lite_llm.contracts.tiers import Medium
from lite_llm.tiers import (
    Arena,
    DeviceMemory,
    DeviceTier,
    DiskReader,
    HostMemory,
    HostTier,
    Loader,
    LocalSource,
    Phase,
    open_device_tier,
)
from lite_llm.tiers.device_tier import CudaCopier, MemoryCopier
from lite_llm.tiers.memory import cupy


@pytest.fixture
def device() -> Iterator[DeviceTier]:
    tier = DeviceTier(Arena("gpu", HostMemory(8 << 20, lock=False)), MemoryCopier())
    yield tier
    tier.check()
    tier.close()


@pytest.fixture
def source(checkpoint: Any, tmp_path: Path) -> LocalSource:
    return LocalSource(checkpoint.write(tmp_path / "model"))


def as_bytes(view: Any) -> bytes:
    return bytes(view) if isinstance(view, memoryview) else bytes(view.get())


async def assert_right(load: Any, checkpoint: Any) -> None:
    manifest, seen = checkpoint.manifest, 0
    async for layer in load.layers():
        for name, view in layer.tensors.items():
            assert as_bytes(view) == checkpoint.bytes_of(manifest.tensor_by_name[name].span)
        for key, parts in layer.experts.items():
            for view, part in zip(parts, manifest.expert_by_key[key].parts, strict=True):
                assert as_bytes(view) == checkpoint.bytes_of(part.span)
        seen += len(layer.tensors) + len(layer.experts)
    assert seen == len(manifest.tensors) + len(manifest.experts)


async def test_layers_lie_on_the_device_and_host_memory_keeps_a_copy_that_may_leave(
    host: HostTier, device: DeviceTier, reader: DiskReader, checkpoint: Any, source: LocalSource
) -> None:
    loader = Loader(host, reader, device=device)
    async with loader.load(checkpoint.manifest, [source]) as load:
        await assert_right(load, checkpoint)
        await load.done()
        states = [state async for state in load.progress()]
        assert states[-1].phases[Phase.TO_GPU].num_bytes == load.plan.num_bytes
        assert states[-1].phases[Phase.TO_GPU].seconds > 0
        assert device.arena.used_bytes >= checkpoint.manifest.num_bytes
        assert host.arena.used_bytes >= checkpoint.manifest.num_bytes
        host.clear()  # nobody holds the copy any more
        assert host.arena.used_bytes == 0
        await assert_right(load, checkpoint)


async def test_the_nearest_tier_that_has_it_serves_the_next_load(
    host: HostTier, device: DeviceTier, reader: DiskReader, checkpoint: Any, source: LocalSource
) -> None:
    loader = Loader(host, reader, device=device)
    async with loader.load(checkpoint.manifest, [source]) as load:
        await load.done()
    for name in checkpoint.content:
        await asyncio.to_thread(source.path(name).unlink)
    for phase_bytes in (0, load.plan.num_bytes):
        async with loader.load(checkpoint.manifest, [source]) as load:
            await assert_right(load, checkpoint)
            last = [state async for state in load.progress()][-1]
        assert last.phases[Phase.READ].num_bytes == 0
        assert last.phases[Phase.TO_GPU].num_bytes == phase_bytes
        device.clear()


async def test_a_device_without_room_is_an_error_that_takes_no_host_memory(
    host: HostTier, reader: DiskReader, checkpoint: Any, source: LocalSource
) -> None:
    device = DeviceTier(Arena("gpu", HostMemory(1 << 20, lock=False)), MemoryCopier())
    with pytest.raises(OutOfMemory, match=r"gpu \(1\.0 MiB\) has no room"):
        async with Loader(host, reader, device=device).load(checkpoint.manifest, [source]):
            pass
    assert host.arena.used_bytes == device.arena.used_bytes == 0
    device.close()


@pytest.mark.parametrize("host_bytes", [1 << 20, 400 << 10])
async def test_more_than_host_memory_holds_passes_through_it_to_the_device(
    device: DeviceTier, reader: DiskReader, checkpoint: Any, source: LocalSource, host_bytes: int
) -> None:
    host = HostTier(Arena("dram", HostMemory(host_bytes, lock=False)))
    async with Loader(host, reader, device=device).load(checkpoint.manifest, [source]) as load:
        await assert_right(load, checkpoint)
        await load.done()
        last = [state async for state in load.progress()][-1]
    assert last.phases[Phase.TO_GPU].num_bytes == load.plan.num_bytes
    assert host.arena.used_bytes == 0
    host.check()
    host.arena.close()


async def test_host_memory_too_small_for_one_piece_is_an_error(
    device: DeviceTier, reader: DiskReader, checkpoint: Any, source: LocalSource
) -> None:
    host = HostTier(Arena("dram", HostMemory(64 << 10, lock=False)))
    async with Loader(host, reader, device=device).load(checkpoint.manifest, [source]) as load:
        with pytest.raises(OutOfMemory, match="DRAM"):
            await load.done()
    assert host.arena.used_bytes == 0
    host.arena.close()


async def test_borrowed_blocks_are_waited_for_and_evict_what_nobody_uses(
    host: HostTier, reader: DiskReader, checkpoint: Any, source: LocalSource
) -> None:
    loader = Loader(host, reader, map_cached=False)
    async with loader.load(checkpoint.manifest, [source]) as load:
        await load.done()
    order: list[str] = []

    async def borrow(name: str) -> None:
        async with host.borrowed(6 << 20):
            order.append(f"{name} has it")
            await asyncio.sleep(0.01)
            order.append(f"{name} is done")

    await asyncio.gather(borrow("one"), borrow("two"))
    assert order == ["one has it", "one is done", "two has it", "two is done"]
    with pytest.raises(OutOfMemory):
        async with host.borrowed(9 << 20):
            pass
    host.check()


class Held(MemoryCopier):
    """Copies when it is let."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()

    def copy(self, source: memoryview, target: memoryview) -> float:
        self.begun.set()
        assert self.open.wait(60)
        return super().copy(source, target)


async def test_closing_waits_for_the_copy_under_way_and_frees_both_memories(
    host: HostTier, reader: DiskReader, checkpoint: Any, source: LocalSource
) -> None:
    copier = Held()
    device = DeviceTier(Arena("gpu", HostMemory(8 << 20, lock=False)), copier)

    async def stop() -> None:
        async with Loader(host, reader, device=device).load(checkpoint.manifest, [source]):
            await asyncio.to_thread(copier.begun.wait, 60)
            asyncio.get_running_loop().call_later(0.05, copier.open.set)

    await stop()
    assert device.arena.used_bytes == 0
    host.check()
    device.close()


async def test_two_loads_copy_to_the_device_once(
    host: HostTier, device: DeviceTier, reader: DiskReader, checkpoint: Any, source: LocalSource
) -> None:
    loader = Loader(host, reader, device=device)
    async with (
        loader.load(checkpoint.manifest, [source]) as one,
        loader.load(checkpoint.manifest, [source]) as two,
    ):
        await asyncio.gather(one.done(), two.done())
        await assert_right(two, checkpoint)
        last = [[state async for state in load.progress()][-1] for load in (one, two)]
        assert sum(s.phases[Phase.TO_GPU].num_bytes for s in last) == one.plan.num_bytes


def test_without_a_device_the_tier_lies_in_ordinary_memory(monkeypatch: Any) -> None:
    monkeypatch.setattr("lite_llm.tiers.memory.cupy", lambda: None)
    tier = open_device_tier(1 << 20)
    assert tier.medium is Medium.GPU
    block = tier.arena.allocate(4096, owner="test")
    with block.write() as target:
        assert asyncio.run(tier.copy(memoryview(b"x" * 4096), target.view)) > 0
        assert bytes(target.view) == b"x" * 4096
    block.free()
    tier.close()


@pytest.mark.gpu
def test_host_memory_is_registered_with_the_driver() -> None:
    memory = HostMemory(64 << 20)
    assert memory.pinned == "cuda"
    memory.close()


@pytest.mark.gpu
def test_device_memory_is_what_was_written_and_moves() -> None:
    device: Any = cupy()
    arena = Arena("gpu", DeviceMemory(3 << 20))
    one, two = (arena.allocate(1 << 20, owner=name) for name in ("one", "two"))
    with two.write() as lease:
        lease.view[:] = (device.arange(1 << 20) % 256).astype("uint8")
    one.free()
    assert arena.defragment() == 1 << 20
    with two.read(5, 10) as lease:
        assert as_bytes(lease.view) == bytes(range(5, 15))
    two.free()
    arena.close()


@pytest.mark.gpu
def test_device_memory_that_is_not_there_is_an_error() -> None:
    with pytest.raises(OutOfMemory):
        DeviceMemory(1 << 50)


@pytest.mark.gpu
@pytest.mark.parametrize("num_bytes", [1, 4097, 8 << 20])
@pytest.mark.parametrize("locked", [True, False], ids=["pinned", "pageable"])
def test_copies_arrive_whole_and_take_time(num_bytes: int, locked: bool) -> None:
    memory, target = HostMemory(8 << 20, lock=locked), DeviceMemory(8 << 20)
    view = memory.view(0, num_bytes)
    np.frombuffer(view, np.uint8)[:] = np.random.default_rng(0).integers(0, 255, num_bytes)
    where = target.view(0, num_bytes)
    assert CudaCopier().copy(view, where) > 0
    assert bytes(where.get()) == bytes(view)
    view.release()
    memory.close()


@pytest.mark.gpu
async def test_a_load_ends_on_the_cuda_device(
    reader: DiskReader, checkpoint: Any, source: LocalSource
) -> None:
    import torch.utils.dlpack

    host, device = HostTier(Arena("dram", HostMemory(8 << 20))), open_device_tier(8 << 20)
    async with Loader(host, reader, device=device).load(checkpoint.manifest, [source]) as load:
        await assert_right(load, checkpoint)
        head = await load.head()
        tensor = torch.utils.dlpack.from_dlpack(head.tensors["lm_head.weight"])
        assert tensor.is_cuda
        span = checkpoint.manifest.tensor_by_name["lm_head.weight"].span
        assert bytes(tensor.cpu().numpy()) == checkpoint.bytes_of(span)
        del tensor, head
    device.close()
    host.clear()
    host.arena.close()
