"""Rows with a CUDA device: what the copy engine does for us, and what the disk does."""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path
from time import perf_counter
from typing import Any

from lite_llm.tiers import (
    Arena,
    DiskReader,
    HostMemory,
    HostTier,
    Loader,
    LocalSource,
    open_device_tier,
)
from lite_llm.tiers.memory import cupy
from loading.contestants import Facts
from loading.inputs import SAFETENSORS, chill, manifest_in
from loading.machine import PAGE, REQUEST, THREADS, RawReader, interleaved, touched_memory


def is_there() -> bool:
    """Whether this machine has a CUDA device and CuPy."""
    return cupy() is not None


def pinned_to_device(num_bytes: int, rounds: int) -> Facts:
    """Our copies, a request at a time, beside one copy of everything on one stream."""
    module: Any = cupy()
    num_bytes = num_bytes // REQUEST * REQUEST
    host, tier = Arena("dram", HostMemory(num_bytes)), open_device_tier(num_bytes)
    source = host.allocate(num_bytes, owner="source")
    target = tier.arena.allocate(num_bytes, owner="target")
    stream = module.cuda.Stream(non_blocking=True)
    runtime = module.cuda.runtime

    async def piece(at: int) -> None:
        with source.read(at, REQUEST) as read, target.write(at, REQUEST) as write:
            await tier.copy(read.view, write.view)

    async def ours() -> float:
        began = perf_counter()
        async with asyncio.TaskGroup() as group:
            for at in range(0, num_bytes, REQUEST):
                group.create_task(piece(at))
        return perf_counter() - began

    def engine() -> float:
        import numpy as np

        with source.read() as read, target.write() as write:
            target_view: Any = write.view
            address = np.frombuffer(read.view, np.uint8).ctypes.data
            began = perf_counter()
            runtime.memcpyAsync(
                target_view.data.ptr, address, num_bytes, runtime.memcpyHostToDevice, stream.ptr
            )
            stream.synchronize()
            return perf_counter() - began

    mine, peak = interleaved([lambda: asyncio.run(ours()), engine], rounds)
    source.free()
    target.free()
    host.close()
    tier.close()
    best = min(peak)
    return {
        "gb_per_s": num_bytes / 1e9 / statistics.median(mine),
        "engine_gb_per_s": num_bytes / 1e9 / best,
        "of_engine": best / statistics.median(mine),
    }


def disk_to_device(directory: Path, rounds: int) -> Facts:
    """A cold load that ends on the device, beside raw reads of the same file."""
    manifest = manifest_in(directory)
    size = -(-(manifest.num_bytes + (1 << 20)) // PAGE) * PAGE
    host, device = HostTier(Arena("dram", HostMemory(size))), open_device_tier(size)
    reader = DiskReader(threads=THREADS)
    loader = Loader(host, reader, device=device)
    raw = RawReader(directory / SAFETENSORS, touched_memory(size))

    async def load() -> float:
        began = perf_counter()
        async with loader.load(manifest, [LocalSource(directory)]) as load:
            await load.done()
            return perf_counter() - began

    def ours() -> float:
        chill(directory)
        device.clear()
        host.clear()
        return asyncio.run(load())

    mine, disk = interleaved([ours, lambda: raw.seconds(0, manifest.num_bytes)], rounds)
    raw.close()
    reader.close()
    device.close()
    host.clear()
    host.arena.close()
    return {
        "gb_per_s": manifest.num_bytes / 1e9 / statistics.median(mine),
        "disk_gb_per_s": manifest.num_bytes / 1e9 / statistics.median(disk),
        "of_disk": statistics.median(disk) / statistics.median(mine),
    }
