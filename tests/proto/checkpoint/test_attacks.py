"""Every hostile file is refused by name, within a second and 64 MiB."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lite_llm.checkpoint import INDEX_NAME, open_checkpoint
from lite_llm.checkpoint.hugging_face import INDEX_SUFFIX, SAFETENSORS
from lite_llm.checkpoint.hugging_face import MAX_TENSORS as MAX_INDEXED
from lite_llm.checkpoint.safetensors_header import MAX_TENSORS
from lite_llm.contracts.errors import Corrupt, LiteLLMError, OverBudget, VersionMismatch

ATTACKS = Path(__file__).parent / "attacks"
FILES = sorted(path for path in ATTACKS.iterdir() if path.suffix in (".idx", ".safetensors"))
HOSTILE = [path for path in FILES if path.stem != "valid"]

WORDS = {
    "absolute.idx": "files[0]", "traversal.idx": "files[0]", "folder.idx": "files[0]",
    "nul-name.idx": "files[0]", "hidden-name.idx": "files[0]", "no-bin-name.idx": "files[0]",
    "traversal-extra.idx": "header.extras", "missing-file.idx": "other.bin",
    "longer-file.idx": "weights.bin", "file-twice.idx": "twice", "few-checksums.idx": "checksums",
    "odd-sha256.idx": "[0][0][2]", "newline-sha256.idx": "[0][0][2]",
    "tensor-overlap.idx": "overlap", "expert-overlap.idx": "overlap",
    "behind-the-end.idx": "behind the 16384 bytes", "overflow.idx": "behind the 16384 bytes",
    "over-64-bits.idx": "[1][0][2]", "negative.idx": ">= 0", "misaligned.idx": "multiple of 4096",
    "no-such-file.idx": "no file 7", "no-such-layout.idx": "no layout 1",
    "wrong-dtype.idx": "'embed'", "unknown-dtype.idx": "F128", "wrong-shape.idx": "(32, 33)",
    "key-twice.idx": "0.0.0.0", "outside-its-tier.idx": "tier 'hot'", "no-such-tier.idx": "tier 3",
    "over-budget.idx": "budget is 127", "odd-placement.idx": "tepid", "major-2.idx": "version 2",
    "odd-seed.idx": "routing_seed", "odd-optimizer.idx": "optimizer",
    "duplicate-header-key.idx": "'model' twice", "duplicate-nested-key.idx": "'model_type' twice",
    "deep-architecture.idx": "recursion", "deep-records.idx": "recursion",
    "flipped-bit.idx": "checksum", "truncated.idx": "checksum",
    "duplicate-key.safetensors": "'a' twice", "escaped-duplicate-key.safetensors": "'a' twice",
    "hole.safetensors": "'b': begins at 40", "overlap.safetensors": "'b': begins at 16",
    "absurd-length.safetensors": "header of", "padded.safetensors": "padded",
    "truncated.safetensors": "truncated", "deep.safetensors": "flat object at byte 1",
    "endless-experts.safetensors": "fused experts",
}  # fmt: skip
"""What the message must say, beside the file's name."""

MEASURE = """
import ctypes, gc, json, sys, time
from pathlib import Path
from lite_llm.checkpoint import open_checkpoint
from lite_llm.contracts.errors import LiteLLMError

def kib(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

def slowness():  # of this core now: who shares it makes each second of ours do less
    start = time.process_time()
    sum(number * number for number in range(100_000))
    return max(1, (time.process_time() - start) / 0.005)

open_checkpoint(Path(sys.argv[1])).close()
results = {}
for path in map(Path, sys.argv[2:]):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, slow, start = kib("VmRSS"), slowness(), time.process_time()
    try:
        open_checkpoint(path).close()
        error = ""
    except LiteLLMError as refusal:
        error = type(refusal).__name__
    seconds, memory = time.process_time() - start, kib("VmHWM") - before
    results[path.name] = [error, seconds / max(slow, slowness()), memory]
print(json.dumps(results))
"""


def plant(file: Path, directory: Path) -> Path:
    """A checkpoint directory with ``file`` as its index or its weights."""
    directory.mkdir(parents=True)
    if file.suffix == ".idx":
        (directory / INDEX_NAME).write_bytes(file.read_bytes())
        (directory / "weights.bin").write_bytes(bytes(16384))
    else:
        (directory / "config.json").write_text("{}")
        (directory / "model.safetensors").write_bytes(file.read_bytes())
    return directory


def framed(header: str, records: str) -> bytes:
    content = f'"header":{header},"records":{records}}}'.encode()
    return b'{"checksum":"' + hashlib.sha256(content).hexdigest().encode() + b'",' + content


@pytest.mark.parametrize("file", HOSTILE, ids=lambda path: path.name)
def test_hostile_files_are_refused_by_name(file: Path, tmp_path: Path) -> None:
    directory = plant(file, tmp_path / "victim")
    with pytest.raises(LiteLLMError) as refusal:
        open_checkpoint(directory)
    expected = {"over-budget.idx": OverBudget, "major-2.idx": VersionMismatch}
    assert type(refusal.value) is expected.get(file.name, Corrupt)
    assert str(directory) in refusal.value.message
    assert str(directory) in refusal.value.where
    assert WORDS.get(file.name, "") in refusal.value.message


@pytest.mark.parametrize("name", ["valid.idx", "valid.safetensors"])
def test_what_the_attacks_were_made_of_is_accepted(name: str, tmp_path: Path) -> None:
    open_checkpoint(plant(ATTACKS / name, tmp_path / "victim")).close()


def test_the_files_are_what_the_script_makes(tmp_path: Path) -> None:
    runpy.run_path(str(ATTACKS / "make.py"))["main"](tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in FILES}


BIG: dict[str, Callable[[], bytes]] = {
    "nothing-but-brackets": lambda: framed("{}", "[" + "[]," * (5 << 20) + "[]]"),
    "endless-architecture": lambda: framed(
        '{"format":{"major":1},"model":"m","architecture":{"a":[' + "[]," * (4 << 20) + "1]}}", "[]"
    ),
    "a-million-header-lists": lambda: framed(
        '{"format":{"major":1},"model":"m","architecture":{"a":[' + "[]," * 340_000 + "1]}}", "[]"
    ),
    "many-tensors": lambda: framed(
        '{"format":{"major":1},"model":"m","architecture":{}}',
        "[[]," + "[" + ",".join(['["a",0,0,0,[],"U8"]'] * 130_000) + "],[]]",
    ),
    "many-experts": lambda: framed(
        '{"format":{"major":1},"model":"m","architecture":{}}',
        "[[],[]," + "[" + ",".join(["[0,0,0,0,0,0,0,0]"] * 260_000) + "]]",
    ),
    "too-long": lambda: b"x" * (17 << 20),
}


def safetensors(header: str) -> bytes:
    return struct.pack("<Q", len(header)) + header.encode()


def most_tensors() -> bytes:
    """As many as one file may have, with names as long as its header has room for."""
    entry = '"%06d' + "x" * 100 + '":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    return safetensors("{" + ",".join(entry % number for number in range(MAX_TENSORS)) + "}") + b"x"


def bad_tensor(field: str, value: str) -> bytes:
    fields = {"dtype": '"U8"', "shape": "[1]", "data_offsets": "[0,1]"} | {field: value}
    return safetensors('{"a":{' + ",".join(f'"{name}":{fields[name]}' for name in fields) + "}}")


BIG_SAFETENSORS: dict[str, Callable[[], bytes]] = {
    "most-tensors": most_tensors,
    "most-tensors-last-twice": lambda: most_tensors().replace(b"099999x", b"099998x"),
    "endless-shape": lambda: bad_tensor("shape", "[" + "1," * (7 << 20) + "1]"),
    "endless-dtype": lambda: bad_tensor("dtype", '"' + "F" * (15 << 20) + '"'),
    "endless-name": lambda: safetensors('{"' + "a" * (15 << 20) + '":{}}'),
    "endless-string": lambda: safetensors('{"' + "a\\" * (5 << 20)),
    "endless-escapes": lambda: safetensors('{"' + "\\\\" * (5 << 20)),
    "endless-spaces": lambda: safetensors("{" + " " * (15 << 20) + "x"),
    "endless-objects": lambda: safetensors('{"a":' + "{" * (15 << 20)),
    "much-metadata": lambda: safetensors('{"__metadata__":{' + '"a":"b",' * (1 << 20) + '"":""}}'),
    "no-tensors": lambda: safetensors("{" + '"a":"b",' * (1 << 20) + '"":""}'),
}


def shards(pairs: str) -> bytes:
    return ('{"metadata":{},"weight_map":{' + pairs + "}}").encode()


LONG = "model.layers.10.mlp.experts.100.down_proj.weight_packed"
BIG_SHARDS: dict[str, Callable[[], bytes]] = {
    "most-shards-last-twice": lambda: shards(
        ",".join(f'"{n:06}{LONG}":"a.safetensors"' for n in range(MAX_INDEXED - 1))
        + f',"000000{LONG}":"a.safetensors"'
    ),
    "endless-shards": lambda: shards('"a":"b.safetensors",' * (3 << 19) + '"":""'),
    "many-files": lambda: shards(",".join(f'"{n}":"{n}.safetensors"' for n in range(10_000))),
    "shards-of-shards": lambda: shards('"a":' + '{"a":' * (6 << 20)),
}


def test_refusing_takes_at_most_a_second_and_64_mib(tmp_path: Path) -> None:
    for file in FILES:
        plant(file, tmp_path / file.name)
    for name, make in BIG.items():
        plant(ATTACKS / "valid.idx", tmp_path / name)
        (tmp_path / name / INDEX_NAME).write_bytes(make())
    for makers, target in (
        (BIG_SAFETENSORS, SAFETENSORS),
        (BIG_SHARDS, SAFETENSORS + INDEX_SUFFIX),
    ):
        for name, make in makers.items():
            plant(ATTACKS / "valid.safetensors", tmp_path / name)
            (tmp_path / name / target).write_bytes(make())
    names = sorted(path.name for path in tmp_path.iterdir())
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "valid.idx")]
    output = subprocess.run(
        [*command, *(str(tmp_path / name) for name in names)], check=True, capture_output=True
    ).stdout
    results: dict[str, tuple[str, float, int]] = json.loads(output)
    accepted = {name for name, (error, _, _) in results.items() if not error}
    assert accepted == {"valid.idx", "valid.safetensors"}
    assert {n: (s, k) for n, (_, s, k) in results.items() if s > 1 or k > 64 << 10} == {}


def test_links_and_devices_are_no_files_of_a_checkpoint(tmp_path: Path) -> None:
    directory = plant(ATTACKS / "valid.idx", tmp_path / "victim")
    weights = directory / "weights.bin"
    weights.rename(tmp_path / "elsewhere")
    makers: list[Callable[[], None]] = [
        lambda: weights.symlink_to(tmp_path / "elsewhere"),
        lambda: os.mkfifo(weights),
        lambda: weights.mkdir(),
    ]
    for make in makers:
        make()
        with pytest.raises(Corrupt, match=r"weights\.bin"):
            open_checkpoint(directory)
        weights.rmdir() if weights.is_dir() else weights.unlink()


def test_the_index_itself_may_not_be_a_link(tmp_path: Path) -> None:
    directory = plant(ATTACKS / "valid.idx", tmp_path / "victim")
    (directory / INDEX_NAME).rename(tmp_path / "elsewhere")
    (directory / INDEX_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Corrupt, match=INDEX_NAME):
        open_checkpoint(directory)
