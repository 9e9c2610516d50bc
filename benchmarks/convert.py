"""Conversion beside what the disk can read and write: from the first byte to published.

    python benchmarks/convert.py [--gib 4] [--rounds 5] [--directory DIR] [--json]

The source is a Mixtral of random bytes in two safetensors files. Each round reads it cold, writes
as many bytes and flushes them, converts it cold, and verifies the result warm, so that a busy
moment of the machine falls on all of them. A rate is the median over the rounds, the ratio the
median of the rounds' ratios. The goal is 0.8 of the slower of reading and writing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

from lite_llm.checkpoint import Finding, convert, verify

GIB = 1 << 30
PIECE_BYTES = 4 << 20
EXPERTS, HIDDEN, FFN = 8, 4096, 7168
EXPERT_BYTES = 3 * HIDDEN * FFN * 2
FIGURES = ("read", "write", "convert", "verify")


def make_source(directory: Path, num_bytes: int) -> int:
    """A Hugging Face directory of about ``num_bytes``; returns how many they are."""
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "mixtral", "hidden_size": 4096}')
    layers = max(2, round(num_bytes / (EXPERTS * EXPERT_BYTES)))
    weight_map: dict[str, str] = {}
    for number in range(2):
        file = f"model-{number + 1:05}-of-00002.safetensors"
        header: dict[str, object] = {}
        end = 0
        for layer in range(number, layers, 2):
            for expert in range(EXPERTS):
                for name, shape in (
                    ("w1", [FFN, HIDDEN]),
                    ("w2", [HIDDEN, FFN]),
                    ("w3", [FFN, HIDDEN]),
                ):
                    tensor = f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}.weight"
                    start, end = end, end + EXPERT_BYTES // 3
                    header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
                    weight_map[tensor] = file
        encoded = json.dumps(header).encode()
        with (directory / file).open("wb") as output:
            output.write(len(encoded).to_bytes(8, "little") + encoded)
            for _ in range(end // PIECE_BYTES):
                output.write(os.urandom(PIECE_BYTES))
            output.write(bytes(end % PIECE_BYTES))
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def forget(directory: Path) -> None:
    """Drop the files' pages from the cache."""
    for path in directory.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read(source: Path) -> None:
    buffer = bytearray(PIECE_BYTES)
    for path in source.glob("*.safetensors"):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def write(path: Path, num_bytes: int) -> None:
    piece = os.urandom(PIECE_BYTES)
    with path.open("wb", buffering=0) as file:
        for _ in range(num_bytes // PIECE_BYTES):
            file.write(piece)
        os.fsync(file.fileno())


def check(directory: Path) -> None:
    assert not [seen for seen in verify(directory) if isinstance(seen, Finding)]


def one_round(scratch: Path, source: Path, num_bytes: int) -> dict[str, float]:
    """GiB a second of every figure."""
    target = scratch / "target"

    def convert_all() -> None:
        for _ in convert(source, target):
            pass

    forget(source)
    rates = {"read": rate(num_bytes, lambda: read(source))}
    rates["write"] = rate(num_bytes, lambda: write(scratch / "written", num_bytes))
    (scratch / "written").unlink()
    forget(source)
    rates["convert"] = rate(num_bytes, convert_all)
    rates["verify"] = rate(num_bytes, lambda: check(target))
    shutil.rmtree(target)
    return rates | {"ratio": rates["convert"] / min(rates["read"], rates["write"])}


def rate(num_bytes: int, work: Callable[[], None]) -> float:
    start = perf_counter()
    work()
    return num_bytes / GIB / (perf_counter() - start)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gib", type=float, default=4.0, help="size of the source")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="on the disk to measure; default: temporary")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        scratch = Path(name)
        num_bytes = make_source(scratch / "source", int(options.gib * GIB))
        rounds = [one_round(scratch, scratch / "source", num_bytes) for _ in range(options.rounds)]
    medians = {
        figure: round(statistics.median(found[figure] for found in rounds), 3)
        for figure in (*FIGURES, "ratio")
    }
    if options.json:
        print(json.dumps(medians | {"bytes": num_bytes}, indent=2))
        return
    for figure in FIGURES:
        print(f"{figure:8} {medians[figure]:6.2f} GiB/s")
    print(f"convert / min(read, write): {medians['ratio']:.2f}")


if __name__ == "__main__":
    main()
