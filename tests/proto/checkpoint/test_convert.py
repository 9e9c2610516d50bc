"""Conversion: the same bytes every time, in bounded memory, through crashes and full disks."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from lite_llm.checkpoint import (
    INDEX_NAME,
    SIGNATURE_NAME,
    ConvertOptions,
    ConvertOutcome,
    ConvertProgress,
    Finding,
    TierRules,
    convert,
    open_checkpoint,
    verify,
)
from lite_llm.contracts.errors import (
    Conflict,
    Corrupt,
    InvalidRequest,
    OutOfMemory,
    OverBudget,
    RuntimeFault,
    Unsupported,
)
from lite_llm.contracts.identity import ExpertKey
from lite_llm.trust import SignaturePolicy, generate_key

Tensors = dict[str, np.ndarray[Any, Any]]
MakeSource = Callable[..., Path]


def run(source: Path, target: Path, **options: Any) -> list[ConvertProgress]:
    return list(convert(source, target, ConvertOptions(**options)))


def contents(directory: Path) -> dict[str, bytes]:
    """What a checkpoint consists of, without the writer's own notes."""
    return {
        path.name: path.read_bytes()
        for path in directory.iterdir()
        if not path.name.startswith(".")
    }


def findings(directory: Path) -> list[Finding]:
    return [seen for seen in verify(directory) if isinstance(seen, Finding)]


def test_the_same_weights_give_the_same_bytes_however_they_were_cut(
    make_source: MakeSource, tensors: Tensors, tmp_path: Path
) -> None:
    sources = [make_source(name=f"s{shards}", shards=shards) for shards in (1, 2, 3)]
    sources.append(make_source(dict(reversed(tensors.items())), name="reversed"))
    for number, source in enumerate(sources):
        run(source, tmp_path / str(number), model="m")
    first, *others = (contents(tmp_path / str(number)) for number in range(4))
    assert all(other == first for other in others)
    assert sorted(first) == [
        "checkpoint.idx",
        "dense-00000-000.bin",
        "dense-00001-000.bin",
        "dense-outer-000.bin",
        "experts-00000-tier0-000.bin",
        "experts-00001-tier0-000.bin",
        "tokenizer.json",
    ]


def test_pickles_give_the_same_bytes_as_safetensors(
    make_source: MakeSource, tensors: Tensors, tmp_path: Path
) -> None:
    run(make_source(name="a"), tmp_path / "from-a", model="m")
    other = make_source(name="b")
    (other / "model.safetensors").unlink()
    state = {name: torch.from_numpy(value) for name, value in tensors.items()}
    torch.save(state, other / "pytorch_model.bin")
    run(other, tmp_path / "from-b", model="m")
    assert contents(tmp_path / "from-a") == contents(tmp_path / "from-b")


def test_a_second_conversion_writes_nothing(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    run(source, target)
    before = {path: path.stat().st_mtime_ns for path in [target, *target.iterdir()]}
    (progress,) = run(source, target)
    assert progress.done_bytes == progress.total_bytes > 0
    assert progress.outcome is ConvertOutcome.UNCHANGED
    assert before == {path: path.stat().st_mtime_ns for path in [target, *target.iterdir()]}


def test_a_published_checkpoint_that_lost_a_file_is_not_called_complete(
    source: Path, tmp_path: Path
) -> None:
    run(source, tmp_path / "target")
    (tmp_path / "target" / "dense-outer-000.bin").unlink()
    with pytest.raises(Corrupt, match="dense-outer"):
        run(source, tmp_path / "target")


def test_empty_and_scalar_tensors_survive(make_source: MakeSource, tmp_path: Path) -> None:
    tensors: Tensors = {"a": np.array(3.5), "b": np.empty((0, 7), np.float32), "c": np.ones(3)}
    run(make_source(tensors), tmp_path / "t", dtype="float32")
    assert findings(tmp_path / "t") == []
    with open_checkpoint(tmp_path / "t") as reader:
        assert {name: reader.tensor(name).shape for name in "abc"} == {
            "a": (), "b": (0, 7), "c": (3,)
        }  # fmt: skip
        assert reader.tensor("a") == 3.5


def test_a_published_checkpoint_is_never_written_over(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    run(source, target)
    before = contents(target)
    with pytest.raises(Conflict, match="checkpoint of another input"):
        run(source, target, dtype="float16")
    assert contents(target) == before
    with pytest.raises(InvalidRequest, match="one directory"):
        run(source, source)


def test_foreign_files_are_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "thesis.txt").write_text("mine")
    with pytest.raises(Conflict, match=r"thesis\.txt"):
        run(source, tmp_path / "target")
    assert (tmp_path / "target" / "thesis.txt").read_text() == "mine"
    assert not (tmp_path / "target" / INDEX_NAME).exists()


def test_one_writer_at_a_time(source: Path, tmp_path: Path) -> None:
    first = convert(source, tmp_path / "target")
    next(first)
    with pytest.raises(Conflict, match="another process"):
        run(source, tmp_path / "target")
    first.close()
    run(source, tmp_path / "target")
    assert findings(tmp_path / "target") == []


def test_an_abandoned_conversion_goes_on_where_it_stopped(source: Path, tmp_path: Path) -> None:
    target, whole = tmp_path / "target", tmp_path / "whole"
    steps = convert(source, target)
    while next(steps).file != "experts-00000-tier0-000.bin":
        pass
    steps.close()
    done = {path.name: path.stat().st_mtime_ns for path in target.glob("dense-*.bin")}
    assert len(done) == 3
    with (target / ".writer.journal").open("ab") as journal:
        journal.write(b'{"name": "torn by the cra')
    last = run(source, target)[-1]
    assert last.outcome is ConvertOutcome.RESUMED
    assert last.found_bytes == sum((target / name).stat().st_size for name in done)
    last = run(source, whole)[-1]
    assert (last.outcome, last.found_bytes) == (ConvertOutcome.WRITTEN, 0)
    assert contents(target) == contents(whole)
    assert done == {path.name: path.stat().st_mtime_ns for path in target.glob("dense-*.bin")}


def test_another_input_starts_over(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    steps = convert(source, target, ConvertOptions(dtype="float16"))
    while next(steps).file != "dense-outer-000.bin":
        pass
    steps.close()
    run(source, target)
    run(source, tmp_path / "whole")
    assert contents(target) == contents(tmp_path / "whole")


KILL = """
import os, signal, sys
from pathlib import Path
from lite_llm.checkpoint import INDEX_NAME, VerifyProgress, convert, verify

def dying(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

os.fsync, os.replace = dying(os.fsync), dying(os.replace)
Path.replace = dying(Path.replace)
source, target = Path(sys.argv[1]), Path(sys.argv[2])
for left in map(int, sys.argv[3:]):
    child = os.fork()  # from a process of one thread, that has imported everything once
    if not child:
        for _ in convert(source, target):
            pass
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if (target / INDEX_NAME).exists():
        for seen in verify(target):
            assert isinstance(seen, VerifyProgress), seen
    print(os.waitstatus_to_exitcode(status))
"""


def test_kill_9_again_and_again(source: Path, tmp_path: Path) -> None:
    """Each run dies a few steps further on; nothing half-done is ever published."""
    target = tmp_path / "target"
    steps = ["1", "2", "3", "5", "6", "7", "9", "4", "8", "10", "5", "6", "6", "1000"]
    command = [sys.executable, "-c", KILL, str(source), str(target), *steps]
    exits = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert exits.count("-9") > 8
    assert exits[-1] == "0"
    run(source, tmp_path / "whole")
    assert contents(target) == contents(tmp_path / "whole")


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, OutOfMemory), (errno.EIO, RuntimeFault)])
def test_a_disk_that_is_full_or_fails_is_named_and_leaves_no_debris(
    code: int, kind: type[Exception], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, 0

    def failing(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    target = tmp_path / "target"
    with pytest.raises(kind, match=r"\.bin: ") as fault:
        run(source, target)
    assert isinstance(fault.value, OutOfMemory) == (code == errno.ENOSPC)
    assert not list(target.glob(".*.partial"))
    run(source, target)
    assert findings(target) == []


def test_floats_change_their_dtype_and_what_must_stay_exact_does_not(
    make_source: MakeSource, tmp_path: Path
) -> None:
    tensors: Tensors = {
        "model.layers.0.self_attn.q_proj.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "model.layers.0.mlp.gate.e_score_correction_bias": np.ones(4, np.float32),
        "model.layers.0.self_attn.k_scale": np.ones(1, np.float32),
        "model.layers.0.self_attn.steps": np.arange(3),
    }
    source = make_source(tensors, torch_dtype="float32")
    run(source, tmp_path / "t", dtype="bfloat16")
    with open_checkpoint(tmp_path / "t") as reader:
        dtypes = {record.name.split(".")[-1]: record.dtype for record in reader.manifest.tensors}
        assert dtypes == {
            "weight": "BF16", "e_score_correction_bias": "F32", "k_scale": "F32", "steps": "I64"
        }  # fmt: skip
        assert reader.manifest.architecture["torch_dtype"] == "bfloat16"
        expected = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).view(torch.uint16).numpy()
        assert np.array_equal(reader.tensor("model.layers.0.self_attn.q_proj.weight"), expected)
    with pytest.raises(InvalidRequest, match="no dtype to convert to"):
        ConvertOptions(dtype="int8")
    with pytest.raises(InvalidRequest, match="no version of a model"):
        ConvertOptions(version="1.2.3")


def test_a_number_too_large_for_the_dtype_stops_the_conversion(
    make_source: MakeSource, tmp_path: Path
) -> None:
    source = make_source({"model.norm.weight": np.array([1e6], np.float32)})
    with pytest.raises(Unsupported, match=r"model\.norm\.weight: 1000000\.0 is too large"):
        run(source, tmp_path / "t", dtype="float16")
    assert not (tmp_path / "t" / INDEX_NAME).exists()


def tiers(*rules: dict[str, Any]) -> TierRules:
    return msgspec.convert({"tiers": list(rules)}, TierRules)


def test_tiers_are_assigned_and_assigned_anew(
    source: Path, tmp_path: Path, tensors: Tensors
) -> None:
    rules = tiers({"name": "hot", "experts": "1,3"}, {"name": "cold", "experts": "rest"})
    run(source, tmp_path / "two", tiers=rules)
    run(tmp_path / "two", tmp_path / "three", tiers=tiers({"name": "one", "experts": "rest"}))
    run(source, tmp_path / "one", tiers=tiers({"name": "one", "experts": "rest"}), model="two")
    assert (tmp_path / "two" / "experts-00001-tier1-000.bin").exists()
    with open_checkpoint(tmp_path / "two") as reader:
        parts = reader.expert(ExpertKey(1, 0, 0, 1))
        name = "model.layers.1.block_sparse_moe.experts.3.w3.weight"
        assert np.array_equal(parts["up.weight"], tensors[name])
        assert [tier.name for tier in reader.manifest.tiers] == ["hot", "cold"]
    # Back in one tier, every file is what it would have been without the detour.
    three, one = contents(tmp_path / "three"), contents(tmp_path / "one")
    assert three.keys() == one.keys()
    assert all(three[name] == one[name] for name in one if name != INDEX_NAME)
    over = tiers({"name": "hot", "experts": "rest", "parameter_budget": 5})
    with pytest.raises(OverBudget, match="budget is 5"):
        run(source, tmp_path / "over", tiers=over)


def test_dense_models_have_no_tiers(make_source: MakeSource, tmp_path: Path) -> None:
    source = make_source({"model.norm.weight": np.ones(4, np.float32)})
    run(source, tmp_path / "t")
    with open_checkpoint(tmp_path / "t") as reader:
        assert (reader.manifest.tiers, reader.manifest.experts) == ((), ())
    with pytest.raises(InvalidRequest, match="no experts"):
        run(source, tmp_path / "u", tiers=tiers({"name": "a", "experts": "rest"}))


def test_signing_now_or_later(source: Path, tmp_path: Path) -> None:
    key = generate_key()
    policy = SignaturePolicy(trusted=(key.public,), required=True)
    run(source, tmp_path / "t", key=key)
    open_checkpoint(tmp_path / "t", policy=policy).close()
    other = generate_key()
    assert run(source, tmp_path / "t", key=other)[-1].outcome is ConvertOutcome.SIGNED
    assert run(source, tmp_path / "t", key=other)[-1].outcome is ConvertOutcome.UNCHANGED
    assert other.public.verifies(
        (tmp_path / "t" / SIGNATURE_NAME).read_bytes(), (tmp_path / "t" / INDEX_NAME).read_bytes()
    )


MEMORY = """
import os, sys
from pathlib import Path
from lite_llm.checkpoint import ConvertOptions, convert
def peak():  # not by getrusage, which begins with what the parent had
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
before = peak()
for _ in range(2):  # written, and then compared with what is there
    for _ in convert(Path(sys.argv[1]), Path(sys.argv[2]), ConvertOptions(dtype="bfloat16")): pass
    os.utime(Path(sys.argv[1]) / "config.json")
print(peak() - before)
"""


def test_memory_is_bounded_whatever_the_size(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    num_bytes = 192 << 20  # one tensor of holes, three times what the conversion may take
    entry = {"dtype": "F32", "shape": [num_bytes // 4], "data_offsets": [0, num_bytes]}
    header = json.dumps({"model.embed_tokens.weight": entry}).encode()
    with (source / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + num_bytes)
    command = [sys.executable, "-c", MEMORY, str(source), str(tmp_path / "target")]
    kib = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert 1 << 10 < kib < 64 << 10
    (path,) = (tmp_path / "target").glob("*.bin")
    assert path.stat().st_size == num_bytes // 2
    path.unlink()
