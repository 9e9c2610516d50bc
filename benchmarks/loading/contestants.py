"""Ours and other loaders: each from a directory to tensors of which every page was read.

Run as a program it measures one of them, in a process of its own, and prints the facts as JSON.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from lite_llm.contracts.manifest import Manifest
from lite_llm.tiers import (
    Arena,
    DiskReader,
    HostMemory,
    HostTier,
    Layer,
    Loader,
    LocalSource,
    Phase,
)
from loading.inputs import SAFETENSORS, TENSORIZER, TORCH, manifest_in
from loading.machine import (
    PAGE,
    THREADS,
    RawReader,
    memcpy_seconds,
    status_mib,
    touch,
    touched_memory,
)

Facts = dict[str, float]
Contestant = Callable[[Path, Facts], float]


def touch_layer(layer: Layer) -> None:
    """Every page of every tensor and expert."""
    for view in layer.tensors.values():
        touch(view)
    for parts in layer.experts.values():
        for part in parts:
            touch(part)


def touch_tensors(tensors: object) -> int:
    """The same for a dictionary of torch tensors."""
    import torch

    assert isinstance(tensors, dict)
    return sum(
        int(tensor.reshape(-1).view(torch.uint8)[::PAGE].sum(dtype=torch.int64))
        for tensor in tensors.values()
    )


def raw(directory: Path, facts: Facts) -> float:
    """The disk's rate: no format, no check, no new memory."""
    size = (directory / SAFETENSORS).stat().st_size
    reader = RawReader(directory / SAFETENSORS, touched_memory(size + PAGE))
    seconds = reader.seconds(0, size)
    reader.close()
    return seconds


def memcpy(directory: Path, facts: Facts) -> float:
    """The memory's rate."""
    return memcpy_seconds((directory / SAFETENSORS).stat().st_size)


def ours(directory: Path, facts: Facts) -> float:
    """Checksums on, all layers in order, arena made before, as an agent has it."""
    return _ours(directory, facts, manifest_in(directory))


def ours_again(directory: Path, facts: Facts) -> float:
    """The second load of an agent that has verified the mapped file already."""
    return _ours(directory, facts, manifest_in(directory), loads=2)


def ours_unchecked(directory: Path, facts: Facts) -> float:
    """Without checksums: what they cost is the difference."""
    manifest = manifest_in(directory)
    files = tuple(replace(f, chunk_bytes=0, chunk_checksums=()) for f in manifest.files)
    return _ours(directory, facts, replace(manifest, files=files))


def ours_new_arena(directory: Path, facts: Facts) -> float:
    """With the time that allocating, touching and locking the arena takes."""
    return _ours(directory, facts, manifest_in(directory), new_arena=True)


def _ours(
    directory: Path, facts: Facts, manifest: Manifest, *, new_arena: bool = False, loads: int = 1
) -> float:
    size = -(-(manifest.num_bytes + (1 << 20)) // PAGE) * PAGE
    before = status_mib("VmHWM")
    began = perf_counter()
    host = HostTier(Arena("dram", HostMemory(size)))
    reader = DiskReader(threads=THREADS)
    loader = Loader(host, reader)

    async def load() -> float:
        started = began if new_arena else perf_counter()
        facts.clear()
        async with loader.load(manifest, [LocalSource(directory)]) as load:
            async for layer in load.layers():
                facts.setdefault("first_layer_s", perf_counter() - started)
                touch_layer(layer)
            seconds = perf_counter() - started
            await load.done()
            facts["arena_mib"] = host.arena.used_bytes / 2**20
            phases = [state async for state in load.progress()][-1].phases
            facts["read_busy_s"] = phases[Phase.READ].seconds
            facts["verify_busy_s"] = phases[Phase.VERIFY].seconds
            return seconds

    for _ in range(loads):
        seconds = asyncio.run(load())
    reader.close()
    # Beyond the declared budget and what the interpreter with its imports had before.
    facts["over_budget_mib"] = status_mib("VmHWM") - before - size / 2**20
    return seconds


def safetensors_mmap(directory: Path, facts: Facts) -> float:
    """Views of a mapped file."""
    from safetensors.torch import load_file

    began = perf_counter()
    touch_tensors(load_file(directory / SAFETENSORS))
    return perf_counter() - began


def torch_mmap(directory: Path, facts: Facts) -> float:
    """The same from a torch file."""
    import torch

    began = perf_counter()
    touch_tensors(torch.load(directory / TORCH, mmap=True, weights_only=True))
    return perf_counter() - began


def runai(directory: Path, facts: Facts) -> float:
    """Into one buffer of its own."""
    from runai_model_streamer import SafetensorsStreamer  # type: ignore[import-not-found]  # a peer

    began = perf_counter()
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(directory / SAFETENSORS))
        touch_tensors(dict(streamer.get_tensors()))
    return perf_counter() - began


def fastsafetensors(directory: Path, facts: Facts) -> float:
    """Through bounce buffers; without a GPU."""
    from fastsafetensors import (  # type: ignore[import-not-found]  # a peer, if it is there
        SafeTensorsFileLoader,
        SingleGroup,
    )

    began = perf_counter()
    loader = SafeTensorsFileLoader(SingleGroup(), "cpu", nogds=True)
    loader.add_filenames({0: [str(directory / SAFETENSORS)]})
    files = loader.copy_files_to_device()
    touch_tensors({name: files.get_tensor(name) for name in files.key_to_rank_lidx})
    return perf_counter() - began


def tensorizer(directory: Path, facts: Facts) -> float:
    """With its default of eight readers."""
    from tensorizer import TensorDeserializer  # type: ignore[import-not-found]  # a peer

    began = perf_counter()
    with TensorDeserializer(str(directory / TENSORIZER), device="cpu") as tensors:
        touch_tensors({name: tensor.data for name, tensor in tensors.items()})
        return perf_counter() - began


CONTESTANTS: dict[str, Contestant] = {
    "raw O_DIRECT": raw,
    "memcpy": memcpy,
    "ours": ours,
    "ours, again": ours_again,
    "ours, unchecked": ours_unchecked,
    "ours, new arena": ours_new_arena,
    "safetensors (mmap)": safetensors_mmap,
    "torch.load(mmap)": torch_mmap,
    "Run:ai streamer": runai,
    "fastsafetensors": fastsafetensors,
    "tensorizer": tensorizer,
}
NEEDS = {
    "Run:ai streamer": "runai_model_streamer",
    "fastsafetensors": "fastsafetensors",
    "tensorizer": "tensorizer",
}
FILE_OF = {"torch.load(mmap)": TORCH, "tensorizer": TENSORIZER}
"""What a contestant reads, unless it is the safetensors file."""
QUICK = {"raw O_DIRECT", "memcpy", "ours", "ours, again", "safetensors (mmap)"}
ONLY_COLD = {"ours, unchecked", "ours, new arena"}
ONLY_WARM = {"memcpy", "ours, again"}


def installed(*, quick: bool = False) -> list[str]:
    """Who can take part here."""
    names = [n for n in CONTESTANTS if n not in NEEDS or importlib.util.find_spec(NEEDS[n])]
    return [n for n in names if n in QUICK] if quick else names


def main() -> None:
    """NAME DIRECTORY: measure once and print the result."""
    facts: Facts = {}
    facts["seconds"] = CONTESTANTS[sys.argv[1]](Path(sys.argv[2]), facts)
    facts["peak_rss_mib"] = status_mib("VmHWM")
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
