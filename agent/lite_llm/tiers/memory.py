"""The memory behind an arena: locked pages of the host, or a device's, behind one small interface.

CuPy is asked for only here. Without it, or without a device, a "device" arena lies in ordinary
memory and every other line of code is the same.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import mmap
import os
from functools import cache
from typing import Any, Final, Protocol

from lite_llm.contracts.errors import InvalidSettings, OutOfMemory
from lite_llm.contracts.resources import format_size
from lite_llm.tiers.extents import GRANULE
from lite_llm.tiers.failures import StillLeased

_BOUNCE_BYTES: Final = 64 << 20
"""Of device memory outside the budget, while blocks move."""


class Memory(Protocol):
    """A fixed number of bytes that blocks are cut from."""

    num_bytes: int
    pinned: str
    """"cuda" (registered with the driver), "mlock", or "" where pages may be swapped."""
    why_not_pinned: str
    """What the system said when locking was refused; empty otherwise."""

    def view(self, offset: int, num_bytes: int) -> memoryview:
        """Writable bytes, or on a device an object with ``__dlpack__`` in their place."""

    def move(self, source: int, target: int, num_bytes: int) -> None:
        """``memmove`` within the memory, downwards: ``target`` is the lower offset."""

    def close(self) -> None:
        """Give the memory back; :class:`StillLeased` while views of it live."""


@cache
def cupy() -> Any | None:
    """The module where there is a device, else None."""
    if importlib.util.find_spec("cupy") is None:
        return None
    module: Any = importlib.import_module("cupy")
    # Not getDeviceCount(): that one raises where the driver is missing.
    return module if module.cuda.is_available() else None


class HostMemory:
    """Anonymous pages, huge where the kernel gives them, locked where it lets us."""

    def __init__(self, num_bytes: int, *, lock: bool = True) -> None:
        """``lock`` also touches every page, so that no load ever pays for the first fault."""
        if num_bytes <= 0 or num_bytes % GRANULE:
            raise InvalidSettings(
                f"a memory of {num_bytes} bytes can't be had",
                where="tiers",
                remedy=f"choose a positive multiple of {GRANULE} bytes",
            )
        self.num_bytes = num_bytes
        self.pinned = ""
        self.why_not_pinned = ""
        try:
            self._pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, ValueError, OverflowError) as error:
            raise OutOfMemory(
                f"the system refuses {format_size(num_bytes)} of memory", where="host memory"
            ) from error
        self._pages.madvise(mmap.MADV_HUGEPAGE)
        self._pages.madvise(mmap.MADV_DONTFORK)  # a forked worker must not copy locked pages
        self._all = memoryview(self._pages)
        anchor = (ctypes.c_char * num_bytes).from_buffer(self._pages)
        self._address = ctypes.addressof(anchor)
        del anchor  # or its export would keep the pages from being unmapped
        if lock:
            self._lock()

    def _lock(self) -> None:
        if device := cupy():
            device.cuda.runtime.hostRegister(self._address, self.num_bytes, 0)
            self.pinned = "cuda"
            return
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlock(ctypes.c_void_p(self._address), ctypes.c_size_t(self.num_bytes)) == 0:
            self.pinned = "mlock"
        else:
            self.why_not_pinned = f"mlock: {os.strerror(ctypes.get_errno())}"

    def view(self, offset: int, num_bytes: int) -> memoryview:
        assert 0 <= offset <= offset + num_bytes <= self.num_bytes, (offset, num_bytes)
        return self._all[offset : offset + num_bytes]

    def move(self, source: int, target: int, num_bytes: int) -> None:
        self._pages.move(target, source, num_bytes)

    def close(self) -> None:
        self._all.release()
        try:
            if self.pinned == "cuda" and (device := cupy()):
                device.cuda.runtime.hostUnregister(self._address)
            self._pages.close()
        except BufferError as error:
            raise StillLeased("views of the arena are still alive", where="host memory") from error


class DeviceMemory:
    """Memory of the current CUDA device."""

    def __init__(self, num_bytes: int) -> None:
        """Raises :class:`OutOfMemory` with what the driver said."""
        device = cupy()
        assert device is not None, "ask device_memory()"
        self.num_bytes = num_bytes
        self.pinned = "cuda"
        self.why_not_pinned = ""
        try:
            memory = device.cuda.alloc(num_bytes)
        except device.cuda.memory.OutOfMemoryError as error:
            raise OutOfMemory(str(error), where="device memory") from error
        self._all: Any = device.ndarray((num_bytes,), dtype="uint8", memptr=memory)

    def view(self, offset: int, num_bytes: int) -> Any:
        return self._all[offset : offset + num_bytes]

    def move(self, source: int, target: int, num_bytes: int) -> None:
        # Upwards and through a small copy: overlapping device copies have no defined order.
        assert target <= source, (source, target)
        for start in range(0, num_bytes, _BOUNCE_BYTES):
            length = min(_BOUNCE_BYTES, num_bytes - start)
            piece = self._all[source + start : source + start + length].copy()
            self._all[target + start : target + start + length] = piece

    def close(self) -> None:
        self._all = None  # the pool has it back; another arena may take it from there


def device_memory(num_bytes: int) -> Memory:
    """The device's memory, or without one as much of the host's, not locked."""
    return DeviceMemory(num_bytes) if cupy() else HostMemory(num_bytes, lock=False)
