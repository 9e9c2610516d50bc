"""Whether bytes of a file are in the page cache, asked without touching the disk.

Not by a read with RWF_NOWAIT: recent kernels start to read ahead before they say EAGAIN, and a cold
file would be read twice. Not by mincore either: it calls everything resident in files that the
caller may not write. So by cachestat, which Linux has from 6.5 on; before that all counts as cold.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final

from lite_llm.tiers.extents import GRANULE, aligned_down, aligned_up

_CACHESTAT: Final = 451  # the same number on all architectures, as of all system calls since 2019


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


def is_cached(descriptor: int, offset: int, num_bytes: int) -> bool:
    """Whether every page with one of these bytes is in memory. The answer may be old at once."""
    start, end = aligned_down(offset), aligned_up(offset + num_bytes)
    return cached_bytes(descriptor, offset, num_bytes) >= end - start


def cached_bytes(descriptor: int, offset: int, num_bytes: int) -> int:
    """Bytes in memory of the pages with these bytes; 0 if the system can't tell."""
    start, end = aligned_down(offset), aligned_up(offset + num_bytes)
    counts = _Counts()
    failed = _system_call()(
        _CACHESTAT,
        descriptor,
        ctypes.byref(_Range(start, end - start)),
        ctypes.byref(counts),
        ctypes.c_uint(0),
    )
    return 0 if failed else int(counts.cached) * GRANULE


@cache
def _system_call() -> Any:
    return ctypes.CDLL(None).syscall
