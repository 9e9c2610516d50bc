"""``lite-llm bench load``: how fast a checkpoint comes into memory, beside the disk's own rate.

Cold means that the files were pushed out of the page cache before, warm that they were all read
just then. The clock runs from the open of the load to the moment when one byte of every page of
every tensor was read; the arena is made before, as an agent has it.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

import numpy as np
import typer

from lite_llm.checkpoint import open_checkpoint
from lite_llm.cli.checkpoints import check_directory
from lite_llm.contracts import format_size
from lite_llm.contracts.errors import InvalidRequest
from lite_llm.contracts.manifest import Manifest
from lite_llm.tiers import (
    Arena,
    DiskReader,
    HostMemory,
    HostTier,
    Layer,
    Loader,
    LocalSource,
    plan_load,
)
from lite_llm.tiers.extents import GRANULE, aligned_up
from lite_llm.tiers.page_cache import cached_bytes

REQUEST_BYTES: Final = 8 << 20


def bench_load_command(path: Path, *, rounds: int, threads: int, as_json: bool) -> None:
    """Measure and print; medians of interleaved rounds."""
    check_directory(path)
    with open_checkpoint(path) as reader:
        manifest = reader.manifest
    bench = LoadBench(path, manifest, threads)
    if as_json:
        typer.echo(json.dumps(bench.run(rounds), sort_keys=True))
        return
    typer.echo(f"{path}: {format_size(bench.num_bytes)}, rounds: {rounds}, threads: {threads}")
    for line in lines_of(bench.run(rounds)):
        typer.echo(line)


class LoadBench:
    """One checkpoint, loaded again and again."""

    def __init__(self, directory: Path, manifest: Manifest, threads: int) -> None:
        """Raises :class:`InvalidRequest` for a checkpoint without bytes."""
        self._directory = directory
        self._manifest = manifest
        self._threads = threads
        self._budget = sum(aligned_up(run.num_bytes) for run in plan_load(manifest).runs)
        self._paths = [directory / file.name for file in manifest.files]
        self.num_bytes = manifest.num_bytes
        if not self._budget:
            raise InvalidRequest(f"{directory} has no weights to load", where=str(directory))

    def run(self, rounds: int) -> dict[str, Any]:
        """Rates in GB/s, 10**9 bytes a second: ``raw``, ``cold`` and ``warm``, and their ratios.

        ``raw`` is 0 where the file system has no O_DIRECT. ``cached_bytes`` is what the system kept
        in spite of everything before the cold reads, at most: above 0 they were not quite cold.
        """
        seconds: dict[str, list[float]] = {"raw": [], "cold": [], "warm": []}
        still_cached = 0
        measured = [("cold", self._load), ("raw", self._raw)]
        for number in range(rounds):
            # Each first in turn: a disk's own cache favours whoever reads the files again.
            for name, measure in measured if number % 2 == 0 else reversed(measured):
                still_cached = max(still_cached, self._chill())
                seconds[name].append(measure())
            self._warm_up()
            seconds["warm"].append(self._load())
        rates = {name: self._rate(median(found)) for name, found in seconds.items()}
        raw = rates["raw"]
        return {
            "bytes": self.num_bytes,
            "rounds": rounds,
            "threads": self._threads,
            "cached_bytes": still_cached,
            **{f"{name}_gb_per_s": rate for name, rate in rates.items()},
            **{f"{name}_of_raw": rates[name] / raw if raw else 0.0 for name in ("cold", "warm")},
        }

    def _rate(self, seconds: float) -> float:
        return self.num_bytes / 1e9 / seconds if seconds else 0.0

    def _raw(self) -> float:
        """Seconds to read all files with O_DIRECT into memory that exists; 0 if that can't be."""
        with ExitStack() as opened:
            requests = []
            for path in self._paths:
                try:
                    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
                except OSError:
                    return 0.0
                opened.callback(os.close, descriptor)
                size = path.stat().st_size
                requests += [(descriptor, at) for at in range(0, size, REQUEST_BYTES)]
            room = opened.enter_context(mmap.mmap(-1, self._threads * REQUEST_BYTES))
            view = opened.enter_context(memoryview(room))
            np.frombuffer(view, np.uint8)[::GRANULE] = 1
            share = [requests[number :: self._threads] for number in range(self._threads)]

            def read(number: int) -> None:
                start = number * REQUEST_BYTES
                with view[start : start + REQUEST_BYTES] as buffer:
                    for descriptor, at in share[number]:
                        os.preadv(descriptor, [buffer], at)

            with ThreadPoolExecutor(self._threads) as pool:
                began = perf_counter()
                list(pool.map(read, range(self._threads)))
                return perf_counter() - began

    def _load(self) -> float:
        """Seconds for all layers in order, by a loader that has seen nothing yet."""
        with ExitStack() as made:
            memory = HostMemory(self._budget)
            arena = Arena("bench", memory)
            made.callback(arena.close)
            reader = DiskReader(threads=self._threads)
            made.callback(reader.close)
            return asyncio.run(self._loaded(Loader(HostTier(arena), reader)))

    async def _loaded(self, loader: Loader) -> float:
        began = perf_counter()
        async with loader.load(self._manifest, [LocalSource(self._directory)]) as load:
            async for layer in load.layers():
                _touch(layer)
                layer.release()
            seconds = perf_counter() - began
            await load.done()
        return seconds

    def _chill(self) -> int:
        """Push the files out of the page cache; returns how many bytes stayed there."""
        os.sync()  # what is not written yet can't be dropped
        return sum(_each(self._paths, _dropped))

    def _warm_up(self) -> None:
        """Read all files through the page cache."""
        list(_each(self._paths, _read_through))


def lines_of(result: dict[str, Any]) -> Iterator[str]:
    """The same for people."""
    raw = f"{result['raw_gb_per_s']:6.2f} GB/s" if result["raw_gb_per_s"] else "not possible here"
    yield f"raw O_DIRECT      {raw}"
    for name in ("cold", "warm"):
        ratio = f"  {result[f'{name}_of_raw']:5.2f} of raw" if result["raw_gb_per_s"] else ""
        yield f"{name + ' page cache':17} {result[f'{name}_gb_per_s']:6.2f} GB/s{ratio}"
    if result["cached_bytes"]:
        yield f"not quite cold: {format_size(result['cached_bytes'])} stayed in the page cache"


def _touch(layer: Layer) -> None:
    views = [*layer.tensors.values(), *(part for parts in layer.experts.values() for part in parts)]
    for view in views:
        np.frombuffer(view, np.uint8)[::GRANULE].sum(dtype=np.int64)


def _each(paths: list[Path], work: Callable[[int, int], int]) -> Iterator[int]:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield work(descriptor, path.stat().st_size)
        finally:
            os.close(descriptor)


def _dropped(descriptor: int, size: int) -> int:
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return cached_bytes(descriptor, 0, size)


def _read_through(descriptor: int, size: int) -> int:
    for at in range(0, size, REQUEST_BYTES):
        os.pread(descriptor, REQUEST_BYTES, at)
    return size
