"""Threads: a kernel's tasks, taken one by one by as many threads as there are.

Which thread runs a task, and when, decides no bit. The threads are those of the OpenMP runtime
that torch has brought along, so that torch's and ours don't contend for cores; where none answers
to GNU's entry point, the calling thread does it all.
"""

from __future__ import annotations

import ctypes
import functools
import struct
import threading
from array import array
from collections.abc import Callable
from typing import Any

import torch
from numba import cfunc, njit
from numba.core import types

from lite_llm.kernels import cache
from lite_llm.kernels.vector import call, fetch_add, word, words

SLOTS = 18
_TASKS, _NEXT, _WORKERS, _KERNEL, _HEADER = 0, 1, 2, 3, 4
_enter, _start, _start_team = call(3), call(1), call(4)
_job = words(_HEADER + SLOTS)
_WORTH_A_THREAD = 1 << 18
"""Multiplications that take one thread about 20 microseconds, and waking one takes ten."""
_PADDING = (0,) * SLOTS


class _Local(threading.local):
    """What one thread of Python lends to its kernels."""

    workers = 1 << 30
    size = 0
    address = 0
    memory: torch.Tensor | None = None
    table = array("q")


_local = _Local()
_settings = {"threads": torch.get_num_threads()}


def set_threads(count: int) -> None:
    """How many threads a call may use, in this process; at first as many as torch uses.

    :raises ValueError: ``count`` is less than 1.
    """
    if count < 1:
        raise ValueError("a kernel needs at least one thread")
    _settings["threads"] = count


def get_threads() -> int:
    """How many threads a call may use."""
    return _settings["threads"]


_kernels: list[Kernel] = []


def warm_up() -> None:
    """Compile everything now, so that no request waits for it: seconds, or read from the cache.

    A kernel takes every dtype and shape: there is nothing to choose.
    """
    for kernel in _kernels:
        kernel.run(0, 0)


class Kernel:
    """A function of numba, ``(arguments, worker, task)``, compiled on first use.

    ``arguments`` is the address of the integers given to ``run``. Workers are numbered from 0 and
    no two run at once under one number, so that each may have its own scratch memory.
    """

    def __init__(self, function: Callable[[int, int, int], None]) -> None:
        self._function = function
        _kernels.append(self)

    @functools.cached_property
    def address(self) -> int:
        """Where the machine code stands."""
        signature = types.void(types.intp, types.intp, types.intp)
        cached = cache.directory() is not None
        machine_code: Any = cfunc(signature, cache=cached)(self._function)
        return int(machine_code.address)

    def run(self, tasks: int, work: int, *integers: int) -> None:
        """Run tasks 0 to ``tasks - 1``, releasing the interpreter's lock; wait for all.

        ``work``: about how many multiplications it all comes to; little is not worth waking a
        thread for.
        """
        launch, worker, team = _compiled()
        launch(
            self.address,
            tasks,
            min(_settings["threads"], _local.workers) if work >= _WORTH_A_THREAD else 1,
            worker,
            team,
            *integers,
            *_PADDING[len(integers) :],
        )


def scratch(nbytes: int) -> int:
    """The address of the calling thread's scratch memory, for each worker ``nbytes``.

    Held until the thread ends; what is in it is anything.
    """
    workers = _settings["threads"]
    needed = nbytes * workers
    if _local.size < needed:
        _local.memory = torch.empty(needed + 64, dtype=torch.uint8)
        _local.address = (_local.memory.data_ptr() + 63) // 64 * 64
        _local.size = needed
    # Another thread may ask for more threads before this one's kernel runs.
    _local.workers = workers
    return _local.address


@functools.cache
def _team() -> int:
    """The address of OpenMP's entry point that runs a function on many threads; 0 if none."""
    try:
        entry = ctypes.CDLL("libgomp.so.1").GOMP_parallel
    except (OSError, AttributeError):
        return 0
    return ctypes.cast(entry, ctypes.c_void_p).value or 0


def _work(job: int) -> None:
    worker = fetch_add(job + 8 * _WORKERS, 1)
    task = fetch_add(job + 8 * _NEXT, 1)
    while task < word(job, _TASKS):
        _enter(word(job, _KERNEL), job + 8 * _HEADER, worker, task)
        task = fetch_add(job + 8 * _NEXT, 1)


def _launch(
    kernel: int,
    tasks: int,
    threads: int,
    work: int,
    team: int,
    a: int,
    b: int,
    c: int,
    d: int,
    e: int,
    f: int,
    g: int,
    h: int,
    i: int,
    j: int,
    k: int,
    m: int,
    n: int,
    o: int,
    p: int,
    q: int,
    r: int,
    s: int,
) -> None:
    job = _job(tasks, 0, 0, kernel, a, b, c, d, e, f, g, h, i, j, k, m, n, o, p, q, r, s)
    if team == 0 or threads == 1 or tasks <= 1:
        _start(work, job)
    else:
        _start_team(team, work, job, min(threads, tasks), 0)


@functools.cache
def _compiled() -> tuple[Callable[..., None], int, int]:
    """How to launch, and with what: the launcher, the address of ``_work``, OpenMP's entry."""
    cached = cache.directory() is not None
    machine_code: Any = cfunc(types.void(types.intp), cache=cached)(_work)
    return njit(nogil=True, cache=cached)(_launch), machine_code.address, _team()


def table_of(integers: list[int]) -> int:
    """The address of the integers in a row, held until the calling thread's next table."""
    _local.table = array("q", integers)
    return _local.table.buffer_info()[0]


def chunk_rows(rows: int, size: int) -> int:
    """Rows of ``size`` numbers for one task: enough to be worth a task, few enough to share."""
    return max(1, min(-(-rows // (2 * _settings["threads"])), 1 + (1 << 14) // max(1, size)))


@functools.lru_cache(maxsize=64)
def float_bits(number: float) -> int:
    """A float32 as an integer for a kernel."""
    return int(struct.unpack("<i", struct.pack("<f", number))[0])


def layout(tensor: torch.Tensor, *dimensions: int) -> list[int]:
    """The address and, in bytes, the strides."""
    size = tensor.element_size()
    return [tensor.data_ptr(), *(tensor.stride(dimension) * size for dimension in dimensions)]
