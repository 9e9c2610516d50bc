"""torch's files are read without torch, and what they might run is refused by name."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_llm.checkpoint import open_checkpoint
from lite_llm.checkpoint.pickle_machine import PickleMachine, RefusedPickle
from lite_llm.contracts.errors import Corrupt, Unsupported

TENSORS = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b.weight": torch.arange(5, dtype=torch.bfloat16),
    "c.weight": torch.arange(6, dtype=torch.float16).reshape(2, 3),
    "d.count": torch.tensor(7),
    "e.mask": torch.tensor([True, False]),
    "f.empty": torch.empty(0, 3),
    "g.parameter": torch.nn.Parameter(torch.ones(2)),
}


def save(source: Path, value: Any, **options: Any) -> Path:
    (source / "model.safetensors").unlink(missing_ok=True)
    torch.save(value, source / "pytorch_model.bin", **options)
    return source


def test_tensors_of_every_kind_are_found(source: Path) -> None:
    save(source, OrderedDict(TENSORS))
    with open_checkpoint(source, pickles=True) as reader:
        assert reader.manifest.tensor_by_name.keys() == TENSORS.keys()
        for name, tensor in TENSORS.items():
            found = reader.tensor(name)
            expected = tensor.detach()
            if tensor.dtype == torch.bfloat16:
                expected = expected.view(torch.uint16)
            assert found.shape == tensor.shape
            assert np.array_equal(found, expected.numpy())


def test_views_of_one_storage_are_spans_of_it(source: Path) -> None:
    whole = torch.arange(20, dtype=torch.float32).reshape(4, 5)
    save(source, {"tied": whole, "again": whole, "rows": whole[1:3]})
    with open_checkpoint(source, pickles=True) as reader:
        assert np.array_equal(reader.tensor("rows"), whole[1:3].numpy())
        records = reader.manifest.tensor_by_name
        assert records["tied"].span == records["again"].span


def test_torch_is_not_needed(source: Path) -> None:
    save(source, TENSORS)
    program = (
        "import sys; from pathlib import Path; from lite_llm.checkpoint import open_checkpoint;"
        "print(open_checkpoint(Path(sys.argv[1]), pickles=True).tensor('a.weight')[2, 3]);"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", program, str(source)]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"11.0\n"


class Attack:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "posix.system"),
        (eval, "__builtin__.eval"),
        (getattr, "__builtin__.getattr"),
        (torch.load, "torch.serialization.load"),
    ],
)
def test_calls_are_refused_by_name_and_not_made(
    source: Path, function: Callable[..., Any], name: str
) -> None:
    save(source, {"a": Attack(function, "raise SystemExit")})
    with pytest.raises(Unsupported, match=name):
        open_checkpoint(source, pickles=True)


def test_what_is_no_dict_of_contiguous_tensors_is_refused(source: Path) -> None:
    for value, kind, words in (
        ([torch.ones(2)], Corrupt, "no dict"),
        ({"a": 3}, Corrupt, "'a'"),
        ({7: torch.ones(2)}, Corrupt, "7"),
        ({"a": torch.ones(2, 3).t()}, Unsupported, "not contiguous"),
    ):
        save(source, value)
        with pytest.raises(kind, match=words):
            open_checkpoint(source, pickles=True)


def test_formats_before_torch_1_6_are_refused(source: Path) -> None:
    save(source, TENSORS, _use_new_zipfile_serialization=False)
    with pytest.raises(Unsupported, match="no zip file"):
        open_checkpoint(source, pickles=True)


def rewritten(source: Path, change: Callable[[str, bytes], bytes], compression: int = 0) -> None:
    """The torch file with each of its entries passed through ``change``."""
    path = source / "pytorch_model.bin"
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as old:
        entries = {name: change(name, old.read(name)) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, data in entries.items():
            new.writestr(name, data)


def test_damaged_archives_are_refused(source: Path) -> None:
    for change, words in (
        (lambda name, data: b"big" if name.endswith("byteorder") else data, "not little-endian"),
        (lambda name, data: data[:4] if "/data/" in name else data, "behind its storage"),
        (lambda name, data: data[:50] if name.endswith(".pkl") else data, "middle"),
        (lambda name, data: b"\x80\x02." if name.endswith(".pkl") else data, "malformed"),
    ):
        save(source, {"a": torch.ones(8)})
        rewritten(source, change)
        with pytest.raises((Corrupt, Unsupported), match=words):
            open_checkpoint(source, pickles=True)
    save(source, {"a": torch.ones(8)})
    rewritten(source, lambda _, data: data, zipfile.ZIP_DEFLATED)
    with pytest.raises(Corrupt, match="compressed"):
        open_checkpoint(source, pickles=True)


def run(data: bytes) -> Any:
    def refuse(name: Any) -> Any:
        raise RefusedPickle(str(name))

    return PickleMachine(data, refuse, refuse).run()


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_machine_reads_what_python_writes(protocol: int) -> None:
    value = {
        "a": [1, 300, 70000, -1, 2**40, None, True, 1.5],
        "b": ((), (1,), (1, 2, 3, 4)),
        "ä": {},
    }
    assert run(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x80\x02r\xff\xff\xff\xff.", "malformed"),  # a memo of 32 GiB, to Python's own
        (b"]" * 70_000, "values at once"),
        (b"(" + b"]0" * 10, "opcode 0x30"),
        (b"X\xff\xff\xff\xff", "middle"),
        (b"cposix\nsystem\n", "posix.system"),
        (b"K\x01)R", "no function"),
        (b"", "middle"),
    ],
)
def test_the_machine_stays_bounded(data: bytes, words: str) -> None:
    with pytest.raises(RefusedPickle, match=words):
        run(data)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=200))
def test_the_machine_fails_in_one_way_only(data: bytes) -> None:
    try:
        run(b"\x80\x02" + data)
    except RefusedPickle:
        return
