"""Checkpoint to usable tensors: ours, other loaders, and what the machine can do at all.

    python benchmarks/load.py [--quick] [--gb 4] [--rounds 5] [--peers DIR] [--json FILE]
    python benchmarks/load.py --gpu

Every measurement of a whole checkpoint is a fresh process; the rounds are interleaved in shuffled
order, and medians are printed. The clock runs from the open to the moment when one byte of every
page of every tensor was read. Cold means that the files were pushed out of the page cache, which is
checked. Ours runs with chunk checksums, into an arena that was locked before, as an agent has it.
The raw rate is the same number of threads reading the same file by O_DIRECT into memory that was
touched before, without a check.

``--peers DIR`` installs the peers that are not here into a virtual environment in DIR (kept for the
next time) and measures with that. ``--quick`` takes about a minute and says less.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

from loading import disk, gpu, inputs, store
from loading.contestants import Facts

PEERS = ("runai-model-streamer", "fastsafetensors", "tensorizer")


def with_peers(directory: Path) -> str:
    """The interpreter of an environment that has ours and the peers."""
    python = directory / "bin" / "python"
    if not python.exists():
        venv.create(directory, with_pip=True)
        ours = sysconfig.get_paths()["purelib"]
        theirs = next(directory.glob("lib/python*/site-packages"))
        (theirs / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
        for peer in PEERS:
            done = subprocess.run([python, "-m", "pip", "install", "-qq", peer], check=False)
            if done.returncode:
                print(f"left out, as it can't be installed: {peer}", file=sys.stderr)
    return str(python)


def show_whole(what: str, medians: dict[str, Facts]) -> None:
    """A line for each contestant."""
    for who, facts in medians.items():
        first, over = facts.get("first_layer_s"), facts.get("over_budget_mib")
        print(
            f"{what} | {who:20} {facts['gb_per_s']:6.2f} GB/s  {facts['of_raw']:6.2f} of raw"
            f"  peak {facts['peak_rss_mib']:5.0f} MiB"
            + (f"  first layer {first:.3f} s" if first else "")
            + (f"  {over:+.0f} MiB beside the arena" if over is not None else ""),
            flush=True,
        )


def show(what: str, facts: Facts) -> None:
    """One row."""
    print(f"{what} | " + "  ".join(f"{k} {v:.4g}" for k, v in facts.items()), flush=True)


def checksum_share(medians: dict[str, Facts]) -> Facts:
    """From cold medians: what checking adds to the load, and the threads' time it takes."""
    checked, unchecked = medians["ours"], medians["ours, unchecked"]
    busy = checked["read_busy_s"] + checked["verify_busy_s"]
    return {
        "of_load": 1 - unchecked["seconds"] / checked["seconds"],
        "of_reading_threads": checked["verify_busy_s"] / busy,
    }


def on_cpu(options: argparse.Namespace) -> dict[str, object]:
    """All rows without a device."""
    results: dict[str, object] = {}
    for shape, experts in (("dense", 0), ("moe", 16)):
        with tempfile.TemporaryDirectory(dir=options.directory, prefix="lite-llm-load-") as name:
            directory = Path(name)
            inputs.write_checkpoint(
                directory, int(options.gb * 1e9), experts=experts, for_peers=not options.quick
            )
            for state in ("cold",) if options.quick and experts else ("cold", "warm"):
                medians = disk.whole(
                    directory, options.rounds, cold=state == "cold", quick=options.quick
                )
                show_whole(f"{shape} {state}", medians)
                results[f"{shape} {state}"] = medians
                if state == "cold" and not options.quick:
                    results[f"{shape} checksums"] = share = checksum_share(medians)
                    show(f"{shape} checksums", share)
            if experts:
                results["one expert"] = expert = disk.one_expert(directory, options.reads)
                show("one expert", expert)
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="lite-llm-load-") as name:
        directory = Path(name)
        inputs.write_checkpoint(directory, int(min(options.gb, 1.0) * 1e9), for_peers=False)
        results["store"] = distant = store.from_store(directory, options.rounds)
        show("store", distant)
    return results


def on_gpu(options: argparse.Namespace) -> dict[str, object]:
    """The rows with one."""
    if not gpu.is_there():
        sys.exit("there is no CUDA device, or CuPy is not installed")
    pinned = gpu.pinned_to_device(int(options.gb * 1e9), options.rounds)
    show("pinned to device", pinned)
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="lite-llm-load-") as name:
        inputs.write_checkpoint(Path(name), int(options.gb * 1e9), for_peers=False)
        disks = gpu.disk_to_device(Path(name), options.rounds)
    show("disk to device", disks)
    return {"pinned to device": pinned, "disk to device": disks}


def main() -> None:
    """Write checkpoints, measure everybody, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="0.3 GB and 2 rounds")
    parser.add_argument("--gpu", action="store_true", help="the rows that need a CUDA device")
    parser.add_argument("--gb", type=float, default=4.0, help="size of the checkpoints")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reads", type=int, default=200, help="of one expert")
    parser.add_argument("--directory", type=Path, help="where to write; on the disk to measure")
    parser.add_argument("--peers", type=Path, help="a virtual environment for the peers")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.peers and Path(sys.prefix) != options.peers.absolute():
        python = with_peers(options.peers.absolute())
        os.execv(python, [python, *sys.argv])
    if options.quick:
        options.gb, options.rounds, options.reads = 0.3, 2, 30
    print(f"{options.gb} GB, {options.rounds} rounds, {os.cpu_count()} cores, medians", flush=True)
    results = on_gpu(options) if options.gpu else on_cpu(options)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
