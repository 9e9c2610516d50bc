"""Checkpoint on disk to usable CPU tensors: ours, other loaders, and the disk's raw rate.

    python benchmarks/load.py --gb 1 --rounds 5 [--directory DIR] [--json FILE]

Every measurement is a fresh process; the rounds are interleaved, and the medians are printed. The
clock runs from the open to the moment when one byte of every page of every tensor was read. Cold
means that the files were pushed out of the page cache, which is checked. Ours runs with chunk
checksums, into an arena that was locked before, as an agent has it; "ours, new arena" counts that
too. The raw rate is the same number of threads reading the same file by O_DIRECT into memory that
was touched before, without a check.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import mmap
import os
import pickle
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np
import xxhash

from lite_llm.contracts.manifest import FileRecord, Manifest, Span, TensorRecord
from lite_llm.tiers import (
    Arena,
    DiskReader,
    HostMemory,
    HostTier,
    Loader,
    LocalSource,
    Phase,
)
from lite_llm.tiers.page_cache import is_cached

THREADS = 4
CHUNK = 1 << 20
REQUEST = 8 << 20
PAGE = 4096
FILE = "model.safetensors"


def write_checkpoint(directory: Path, num_bytes: int) -> None:
    """Layers of a Llama-like shape, as safetensors and as a torch file."""
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    generator = np.random.default_rng(1)

    def add(name: str, *shape: int) -> None:
        values = generator.integers(0, 255, size=(*shape, 2), dtype=np.uint8)
        tensors[name] = torch.from_numpy(values).view(torch.bfloat16).squeeze(-1)

    add("model.embed_tokens.weight", 16_000, 2048)
    layer = 0
    while sum(t.nbytes for t in tensors.values()) < num_bytes:
        for part, shape in {
            "q_proj": (2048, 2048), "k_proj": (512, 2048), "v_proj": (512, 2048),
            "o_proj": (2048, 2048), "gate_proj": (5632, 2048), "up_proj": (5632, 2048),
            "down_proj": (2048, 5632), "norm": (2048,),
        }.items():  # fmt: skip
            add(f"model.layers.{layer}.{part}.weight", *shape)
        layer += 1
    save_file(tensors, directory / FILE)
    torch.save(tensors, directory / "model.pt")


def manifest_of(directory: Path) -> Manifest:
    """From the safetensors header, with the checksums that a converted checkpoint would have."""
    path = directory / FILE
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        file.seek(0)
        sums = []
        while chunk := file.read(CHUNK):
            sums.append(xxhash.xxh3_64_intdigest(chunk))
    record = FileRecord(
        FILE, path.stat().st_size, sha256="0" * 64, chunk_bytes=CHUNK, chunk_checksums=tuple(sums)
    )
    tensors = tuple(
        TensorRecord(
            name,
            Span(FILE, 8 + length + at["data_offsets"][0], -int.__sub__(*at["data_offsets"])),
            tuple(at["shape"]),
            at["dtype"],
        )
        for name, at in header.items()
        if name != "__metadata__"
    )
    return Manifest(model="bench", architecture={}, files=(record,), tensors=tensors)


def touch(buffer: memoryview) -> int:
    """Read a byte of every page."""
    return int(np.frombuffer(buffer, np.uint8)[::PAGE].sum(dtype=np.int64))


def touch_tensors(tensors: object) -> int:
    """The same for a dictionary of torch tensors."""
    import torch

    assert isinstance(tensors, dict)
    return sum(
        int(tensor.reshape(-1).view(torch.uint8)[::PAGE].sum(dtype=torch.int64))
        for tensor in tensors.values()
    )


def raw(directory: Path, facts: dict[str, float]) -> float:
    """The disk's rate: no format, no check, no new memory."""
    size = (directory / FILE).stat().st_size
    room = mmap.mmap(-1, -(-size // PAGE) * PAGE)
    room.madvise(mmap.MADV_HUGEPAGE)
    view = memoryview(room)
    np.frombuffer(view, np.uint8)[::PAGE] = 1
    descriptor = os.open(directory / FILE, os.O_RDONLY | os.O_DIRECT)
    with ThreadPoolExecutor(THREADS) as pool:
        began = perf_counter()
        jobs = [
            pool.submit(os.preadv, descriptor, [view[at : at + REQUEST]], at)
            for at in range(0, size, REQUEST)
        ]
        assert sum(job.result() for job in jobs) == size
        return perf_counter() - began


def ours(directory: Path, facts: dict[str, float], *, new_arena: bool = False) -> float:
    """The loader, all layers in order."""
    manifest = manifest_of_file(directory)
    size = -(-(manifest.num_bytes + CHUNK) // PAGE) * PAGE
    began = perf_counter()
    host = HostTier(Arena("dram", HostMemory(size)))
    reader = DiskReader(threads=THREADS)
    loader = Loader(host, reader)
    if not new_arena:
        began = perf_counter()

    async def load() -> float:
        async with loader.load(manifest, [LocalSource(directory)]) as load:
            async for layer in load.layers():
                facts.setdefault("first_layer_s", perf_counter() - began)
                for view in layer.tensors.values():
                    touch(view)
            seconds = perf_counter() - began
            await load.done()
            phases = [state async for state in load.progress()][-1].phases
            facts["read_busy_s"] = phases[Phase.READ].seconds
            facts["verify_busy_s"] = phases[Phase.VERIFY].seconds
            return seconds

    seconds = asyncio.run(load())
    reader.close()
    return seconds


def manifest_of_file(directory: Path) -> Manifest:
    """The manifest that the parent left, so that making it warms no cache."""
    loaded = pickle.loads((directory / "manifest.pickle").read_bytes())
    assert isinstance(loaded, Manifest)
    return loaded


def ours_new_arena(directory: Path, facts: dict[str, float]) -> float:
    """With the time that allocating, touching and locking the arena takes."""
    return ours(directory, facts, new_arena=True)


def safetensors_mmap(directory: Path, facts: dict[str, float]) -> float:
    """Views of a mapped file."""
    from safetensors.torch import load_file

    began = perf_counter()
    touch_tensors(load_file(directory / FILE))
    return perf_counter() - began


def torch_mmap(directory: Path, facts: dict[str, float]) -> float:
    """The same from a torch file."""
    import torch

    began = perf_counter()
    touch_tensors(torch.load(directory / "model.pt", mmap=True, weights_only=True))
    return perf_counter() - began


def runai(directory: Path, facts: dict[str, float]) -> float:
    """Into one buffer of its own."""
    from runai_model_streamer import SafetensorsStreamer  # type: ignore[import-not-found]  # a peer

    began = perf_counter()
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(directory / FILE))
        touch_tensors(dict(streamer.get_tensors()))
    return perf_counter() - began


def fastsafetensors(directory: Path, facts: dict[str, float]) -> float:
    """Through bounce buffers; without a GPU."""
    from fastsafetensors import (  # type: ignore[import-not-found]  # a peer, if it is there
        SafeTensorsFileLoader,
        SingleGroup,
    )

    began = perf_counter()
    loader = SafeTensorsFileLoader(SingleGroup(), "cpu", nogds=True)
    loader.add_filenames({0: [str(directory / FILE)]})
    files = loader.copy_files_to_device()
    touch_tensors({name: files.get_tensor(name) for name in files.key_to_rank_lidx})
    return perf_counter() - began


CONTESTANTS: dict[str, Callable[[Path, dict[str, float]], float]] = {
    "raw O_DIRECT": raw,
    "ours": ours,
    "ours, new arena": ours_new_arena,
    "safetensors (mmap)": safetensors_mmap,
    "torch.load(mmap)": torch_mmap,
    "Run:ai streamer": runai,
    "fastsafetensors": fastsafetensors,
}
NEEDS = {"Run:ai streamer": "runai_model_streamer", "fastsafetensors": "fastsafetensors"}


def chill(directory: Path) -> None:
    """Push the files out of the page cache, and see that they are gone."""
    os.sync()
    for path in (directory / FILE, directory / "model.pt"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            assert not is_cached(descriptor, 64 << 20, PAGE), f"{path} is still in the page cache"
        finally:
            os.close(descriptor)


def warm_up(directory: Path) -> None:
    """Read both files once, through the page cache."""
    for name in (FILE, "model.pt"):
        with (directory / name).open("rb") as file:
            while file.read(REQUEST):
                pass


def child(name: str, directory: Path) -> None:
    """Measure once and print the result."""
    facts: dict[str, float] = {}
    facts["seconds"] = CONTESTANTS[name](directory, facts)
    facts["peak_rss_mib"] = peak_rss_mib()
    print(json.dumps(facts))


def peak_rss_mib() -> float:
    """Of this program alone: getrusage would count what the parent had when it forked."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measure(name: str, directory: Path) -> dict[str, float]:
    """In a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", name, "--directory", str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-800:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def campaign(directory: Path, rounds: int, *, cold: bool) -> dict[str, dict[str, float]]:
    """Medians by contestant."""
    names = [n for n in CONTESTANTS if n not in NEEDS or importlib.util.find_spec(NEEDS[n])]
    size = (directory / FILE).stat().st_size
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(rounds):
        if not cold:
            warm_up(directory)
        # In another order each time: what a hypervisor keeps is warmer for those who come later.
        for name in random.Random(number).sample(names, len(names)):
            if cold:
                chill(directory)
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


def show(state: str, medians: dict[str, dict[str, float]]) -> None:
    """A line for each contestant."""
    for who, result in medians.items():
        first = result.get("first_layer_s")
        print(
            f"{state} {who:20} {result['gb_per_s']:6.2f} GB/s  {result['of_raw']:5.2f} of raw"
            f"  peak {result['peak_rss_mib']:5.0f} MiB"
            + (f"  first layer {first:.3f} s" if first else ""),
            flush=True,
        )


def main() -> None:
    """Write a checkpoint, measure everybody, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.directory)
        return
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="lite-llm-load-") as name:
        directory = Path(name)
        write_checkpoint(directory, int(options.gb * 1e9))
        (directory / "manifest.pickle").write_bytes(pickle.dumps(manifest_of(directory)))
        size = (directory / FILE).stat().st_size / 1e9
        print(
            f"{size:.2f} GB, {options.rounds} rounds, {os.cpu_count()} cores, medians", flush=True
        )
        medians = {}
        for state in ("cold", "warm"):
            medians[state] = campaign(directory, options.rounds, cold=state == "cold")
            show(state, medians[state])
    if options.json:
        options.json.write_text(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
