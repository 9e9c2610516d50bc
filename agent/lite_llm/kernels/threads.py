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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from numba import cfunc, njit
from numba.core import types

from lite_llm.kernels import cache
from lite_llm.kernels.vector import call, fetch_add, pause, store_word, word, word_now, words

SLOTS = 18
_TASKS, _NEXT, _WORKERS, _KERNEL, _HEADER = 0, 1, 2, 3, 4
_enter, _start, _start_team, _give_way = call(3), call(1), call(4), call(0)
_job, _replay_job = words(_HEADER + SLOTS), words(4)
_WORTH_A_THREAD = 1 << 18
"""Multiplications that take one thread about 20 microseconds, and waking one takes ten."""
_LOOKS = 5_000
"""At what others have not finished, a tenth of a millisecond of them, before a thread gives way."""
_PADDING = (0,) * SLOTS
STEP_WORDS = 4 + SLOTS
"""Of a kernel in a replay: its code, tasks, the next one, how many are done, and its arguments."""


class Recorder(Protocol):
    """What takes a thread's kernels down instead of running them."""

    def add(self, step: list[int]) -> None:
        """A kernel and its arguments, by ``STEP_WORDS`` integers."""

    def scratch(self, nbytes: int) -> int:
        """The address of memory for each worker, held with the recording."""

    def table(self, integers: list[int]) -> int:
        """The address of integers in a row, held with the recording."""


class _Local(threading.local):
    """What one thread of Python lends to its kernels."""

    recorder: Recorder | None = None

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
    replay(array("q"), 1)


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
        if _local.recorder is not None:
            _local.recorder.add(_step_of(self.address, tasks, integers))
            return
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
    if _local.recorder is not None:
        return _local.recorder.scratch(nbytes)
    workers = _settings["threads"]
    needed = nbytes * workers
    if _local.size < needed:
        _local.memory = torch.empty(needed + 64, dtype=torch.uint8)
        _local.address = (_local.memory.data_ptr() + 63) // 64 * 64
        _local.size = needed
    # Another thread may ask for more threads before this one's kernel runs.
    _local.workers = workers
    return _local.address


@contextmanager
def recorded_by(recorder: Recorder) -> Iterator[None]:
    """Kernels that the calling thread runs in the block are taken down by ``recorder``."""
    _local.recorder = recorder
    try:
        yield
    finally:
        _local.recorder = None


@functools.cache
def _address_of(library: str | None, name: str) -> int:
    """Of a function in a library, or in what is loaded; 0 if there is none."""
    try:
        entry = getattr(ctypes.CDLL(library), name)
    except (OSError, AttributeError, TypeError):
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
    return (
        njit(nogil=True, cache=cached)(_launch),
        machine_code.address,
        _address_of("libgomp.so.1", "GOMP_parallel"),
    )


def _step_of(kernel: int, tasks: int, integers: tuple[int, ...]) -> list[int]:
    return [kernel, tasks, 0, 0, *integers, *_PADDING[len(integers) :]]


def replay(steps: array[int], threads: int) -> None:
    """Run kernels in a row, ``STEP_WORDS`` integers each, with one start; wait for all."""
    launch, player, team, give_way = _player()
    address, size = steps.buffer_info()
    launch(player, address, size // STEP_WORDS, team, give_way, threads)


def _play(job: int) -> None:
    step, steps, give_way = word(job, 0), word(job, 1), word(job, 2)
    worker = fetch_add(job + 8 * 3, 1)
    for _ in range(steps):
        kernel, tasks = word(step, 0), word(step, 1)
        task = fetch_add(step + 8 * 2, 1)
        while task < tasks:
            _enter(kernel, step + 8 * 4, worker, task)
            fetch_add(step + 8 * 3, 1)
            task = fetch_add(step + 8 * 2, 1)
        # For what was begun, not for every thread: one that isn't running delays nobody.
        looks = 0
        while word_now(step + 8 * 3) < tasks:
            looks += 1
            if looks > _LOOKS and give_way != 0:
                _give_way(give_way)
            else:
                pause()
        step += 8 * STEP_WORDS


def _launch_replay(
    player: int, steps: int, count: int, team: int, give_way: int, threads: int
) -> None:
    for index in range(count):
        store_word(0, steps + 8 * (STEP_WORDS * index + 2))
        store_word(0, steps + 8 * (STEP_WORDS * index + 3))
    job = _replay_job(steps, count, give_way, 0)
    if team == 0 or threads == 1:
        _start(player, job)
    else:
        _start_team(team, player, job, threads, 0)


@functools.cache
def _player() -> tuple[Callable[..., None], int, int, int]:
    """How to launch a replay, and with what: its loop, OpenMP's entry, a way to let others run."""
    cached = cache.directory() is not None
    machine_code: Any = cfunc(types.void(types.intp), cache=cached)(_play)
    team, give_way = _address_of("libgomp.so.1", "GOMP_parallel"), _address_of(None, "sched_yield")
    return njit(nogil=True, cache=cached)(_launch_replay), machine_code.address, team, give_way


def table_of(integers: list[int]) -> int:
    """The address of the integers in a row, held until the calling thread's next table."""
    if _local.recorder is not None:
        return _local.recorder.table(integers)
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
