"""Rows from a local disk: whole checkpoints, cold and warm, and one expert at random."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

from lite_llm.tiers import Arena, DiskReader, HostMemory, HostTier, Loader, LocalSource
from loading.contestants import FILE_OF, ONLY_COLD, ONLY_WARM, Facts, installed
from loading.inputs import EXPERT_BYTES, SAFETENSORS, chill, manifest_in, warm_up
from loading.machine import THREADS, RawReader, environment, touch, touched_memory


def whole(directory: Path, rounds: int, *, cold: bool, quick: bool = False) -> dict[str, Facts]:
    """Disk to usable CPU tensors: medians by contestant, with ``of_raw`` and ``gb_per_s``.

    A contestant that fails is told on stderr and left out; ``quick`` is for few of them.
    """
    names = [n for n in installed(quick=quick) if n not in (ONLY_WARM if cold else ONLY_COLD)]
    size = (directory / SAFETENSORS).stat().st_size
    runs: dict[str, list[Facts]] = {name: [] for name in names}
    for number in range(rounds):
        # In another order each time: what a hypervisor keeps is warmer for those who come later.
        for name in random.Random(number).sample(names, len(names)):
            chill(directory) if cold else warm_up(directory / FILE_OF.get(name, SAFETENSORS))
            try:
                runs[name].append(measure(name, directory))
            except RuntimeError as error:
                print(f"left out: {error}", file=sys.stderr)
    medians = {
        name: {fact: statistics.median(run[fact] for run in found) for fact in found[0]}
        for name, found in runs.items()
        if found
    }
    reference = medians["raw O_DIRECT"]["seconds"]
    for result in medians.values():
        result["gb_per_s"] = size / 1e9 / result["seconds"]
        result["of_raw"] = reference / result["seconds"]
    return medians


def measure(name: str, directory: Path) -> Facts:
    """One contestant, once, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "loading.contestants", name, str(directory)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-800:]}")
    facts: Facts = json.loads(done.stdout.splitlines()[-1])
    return facts


def one_expert(directory: Path, reads: int) -> Facts:
    """Experts at random, cold: seconds of ours and of raw reads of the same sizes, by turns."""
    manifest = manifest_in(directory)
    keys = [record.key for record in manifest.experts]
    chill(directory)
    raw = RawReader(directory / SAFETENSORS, touched_memory(EXPERT_BYTES + (1 << 20)))
    host = HostTier(Arena("dram", HostMemory(64 << 20)))
    reader = DiskReader(threads=THREADS)
    loader = Loader(host, reader)

    async def ours(number: int) -> float:
        began = perf_counter()
        async with loader.expert(manifest, [LocalSource(directory)], keys[number]) as parts:
            for part in parts:
                touch(part)
            seconds = perf_counter() - began
        host.clear()
        return seconds

    def raw_read(number: int) -> float:
        first = manifest.expert_by_key[keys[number]].parts[0].span
        return raw.seconds(first.offset, EXPERT_BYTES)

    async def by_turns() -> tuple[list[float], list[float]]:
        order = random.Random(7)
        mine, theirs = [], []
        for _ in range(reads):
            mine.append(await ours(order.randrange(len(keys))))
            theirs.append(raw_read(order.randrange(len(keys))))
        return mine, theirs

    mine, theirs = asyncio.run(by_turns())
    reader.close()
    raw.close()
    facts: Facts = {"reads": reads}
    for who, seconds in (("ours", mine), ("raw", theirs)):
        facts[f"{who}_median_s"], facts[f"{who}_p99_s"] = np.percentile(seconds, [50, 99])
    facts["p99_of_raw"] = facts["ours_p99_s"] / facts["raw_p99_s"]
    facts["median_of_raw"] = facts["ours_median_s"] / facts["raw_median_s"]
    return facts
