"""What the machine can do at all: the disk, memory, and how much this process has of it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np

THREADS = 4
REQUEST = 8 << 20
PAGE = 4096


def touched_memory(num_bytes: int) -> memoryview:
    """Pages that exist already: making them is not what is measured."""
    room = mmap.mmap(-1, -(-num_bytes // PAGE) * PAGE)
    room.madvise(mmap.MADV_HUGEPAGE)
    view = memoryview(room)
    np.frombuffer(view, np.uint8)[::PAGE] = 1
    return view


class RawReader:
    """Parallel O_DIRECT reads of parts of one file, without a format or a check."""

    def __init__(self, path: Path, room: memoryview) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
        self._room = room
        self._pool = ThreadPoolExecutor(THREADS)

    def seconds(self, offset: int, num_bytes: int) -> float:
        """To read the pages around these bytes."""
        start = offset // PAGE * PAGE
        end = -(-(offset + num_bytes) // PAGE) * PAGE
        began = perf_counter()
        jobs = [
            self._pool.submit(
                os.preadv, self._descriptor, [self._room[at - start : stop - start]], at
            )
            for at in range(start, end, REQUEST)
            for stop in [min(at + REQUEST, end)]
        ]
        assert sum(job.result() for job in jobs) >= num_bytes
        return perf_counter() - began

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
        os.close(self._descriptor)


def memcpy_seconds(num_bytes: int) -> float:
    """To copy that much by all cores, from and to memory that exists."""
    cores, at_once = os.cpu_count() or 1, min(num_bytes, 256 << 20)
    source, target = (np.frombuffer(touched_memory(at_once), np.uint8) for _ in range(2))
    step = -(-at_once // cores)
    rounds = max(1, num_bytes // at_once)
    with ThreadPoolExecutor(cores) as pool:
        began = perf_counter()
        for _ in range(rounds):
            jobs = [
                pool.submit(np.copyto, target[at : at + step], source[at : at + step])
                for at in range(0, at_once, step)
            ]
            for job in jobs:
                job.result()
        return (perf_counter() - began) * num_bytes / (rounds * at_once)


def touch(buffer: memoryview) -> int:
    """Read a byte of every page."""
    return int(np.frombuffer(buffer, np.uint8)[::PAGE].sum(dtype=np.int64))


def status_mib(field: str) -> float:
    """A field of this process's status, such as VmHWM: getrusage counts the parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def environment() -> dict[str, str]:
    """For a child that is to find this package too."""
    here, path = str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (here, path)))}


def interleaved(contestants: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """Seconds of each, by turns, so that drift of the machine lands on all of them."""
    seconds: list[list[float]] = [[] for _ in contestants]
    for number in range(rounds):
        order = range(len(contestants))
        for which in order if number % 2 else reversed(order):
            seconds[which].append(contestants[which]())
    return seconds
