"""A device's memory as the nearest tier, and the copies that fill it.

Without a device the arena lies in ordinary memory, the copy is a memcpy, and everything else is
the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, perf_counter
from typing import Any, Final, Protocol

import numpy as np

from lite_llm.contracts.tiers import Medium
from lite_llm.tiers.arena import Arena
from lite_llm.tiers.memory import DeviceMemory, Memory, cupy, device_memory
from lite_llm.tiers.memory_tier import MemoryTier
from lite_llm.tiers.threads import on_thread

COPIES_AT_A_TIME: Final = 2
"""One runs while the next is being queued: a copy engine does one after the other anyway."""


class Copier(Protocol):
    """Copies host bytes to a device; called from several threads."""

    def copy(self, source: memoryview, target: Any) -> float:
        """All of ``source`` into ``target``, which is as long; returns the seconds it took.

        Returns when the bytes are there, for every stream to see.
        """


class MemoryCopier:
    """To a "device" in ordinary memory."""

    def copy(self, source: memoryview, target: memoryview) -> float:
        began = perf_counter()
        copy_bytes(source, target)
        return perf_counter() - began


class CudaCopier:
    """To the current CUDA device, on a stream of its own for each thread that copies."""

    def __init__(self) -> None:
        module = cupy()
        assert module is not None, "there is no device"
        self._cuda = module.cuda
        self._device = self._cuda.Device()
        self._of_thread = threading.local()

    def copy(self, source: memoryview, target: Any) -> float:
        cuda = self._cuda
        with self._device:  # threads start with device 0
            if not hasattr(self._of_thread, "stream"):
                self._of_thread.stream = cuda.Stream(non_blocking=True)
                self._of_thread.events = (cuda.Event(block=True), cuda.Event(block=True))
            stream, (began, done) = self._of_thread.stream, self._of_thread.events
            address = np.frombuffer(source, np.uint8).ctypes.data
            began.record(stream)
            cuda.runtime.memcpyAsync(
                target.data.ptr,
                address,
                len(source),
                cuda.runtime.memcpyHostToDevice,
                stream.ptr,
            )
            done.record(stream)
            done.synchronize()
            return float(cuda.get_elapsed_time(began, done)) / 1000


class DeviceTier(MemoryTier):
    """Runs on one device. Close it when no load uses it any more."""

    medium = Medium.GPU

    def __init__(
        self, arena: Arena, copier: Copier, *, clock: Callable[[], float] = monotonic
    ) -> None:
        super().__init__(arena, clock=clock)
        self._copier = copier
        self._pool = ThreadPoolExecutor(COPIES_AT_A_TIME, thread_name_prefix="tiers-copy")

    async def copy(self, source: memoryview, target: Any) -> float:
        """Host bytes to the device; returns the seconds. Cancelled, it ends the copy under way."""
        return await on_thread(self._pool, self._copier.copy, source, target)

    def close(self) -> None:
        """Free what is held and end the threads."""
        self._pool.shutdown()
        self.clear()
        self.arena.close()


def open_device_tier(num_bytes: int) -> DeviceTier:
    """On the current CUDA device, or in ordinary memory without one."""
    memory = device_memory(num_bytes)
    return DeviceTier(Arena("gpu", memory), copier_to(memory))


def copier_to(memory: Memory) -> Copier:
    """What fills ``memory``."""
    return CudaCopier() if isinstance(memory, DeviceMemory) else MemoryCopier()


def copy_bytes(source: memoryview, target: memoryview) -> None:
    """A memcpy without the GIL."""
    np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))
