"""A source that was fetched again: recognised by its content, told apart by a single bit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lite_llm.checkpoint import (
    INDEX_NAME,
    SIGNATURE_NAME,
    ConvertOptions,
    ConvertOutcome,
    ConvertProgress,
    convert,
)
from lite_llm.contracts.errors import Conflict
from lite_llm.trust import generate_key

Tensors = dict[str, np.ndarray[Any, Any]]
MakeSource = Callable[..., Path]


def run(source: Path, target: Path, **options: Any) -> list[ConvertProgress]:
    return list(convert(source, target, ConvertOptions(**options)))


def state(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Names, bytes and times of what a checkpoint consists of."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.iterdir()
        if not path.name.startswith(".")
    }


@pytest.fixture
def fetched_again(source: Path) -> Path:
    """The source with the same bytes and other times."""
    for path in source.iterdir():
        os.utime(path, ns=(1, 1))
    return source


@pytest.fixture
def target(source: Path, tmp_path: Path) -> Path:
    run(source, tmp_path / "target")
    return tmp_path / "target"


def test_the_same_content_is_read_once_and_then_known(target: Path, fetched_again: Path) -> None:
    before = state(target)
    *read, last = run(fetched_again, target)
    assert last.outcome is ConvertOutcome.UNCHANGED
    assert last.found_bytes == last.total_bytes
    assert {step.file for step in read} == {name for name in before if name.endswith(".bin")}
    assert all(step.found_bytes == step.done_bytes for step in read)
    assert len(run(fetched_again, target)) == 1
    assert state(target) == before


def test_other_shards_of_the_same_weights_are_the_same(
    target: Path, make_source: MakeSource
) -> None:
    before = state(target)
    sharded = make_source(name="sharded", shards=3)
    assert run(sharded, target, model="source")[-1].outcome is ConvertOutcome.UNCHANGED
    assert state(target) == before


def test_a_copy_without_the_writers_notes_is_known_by_its_content(
    source: Path, target: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(target, tmp_path / "copy", ignore=shutil.ignore_patterns(".*"))
    assert run(source, copy)[-1].outcome is ConvertOutcome.UNCHANGED
    assert len(run(source, copy)) == 1


def test_what_was_fetched_again_can_be_signed(target: Path, fetched_again: Path) -> None:
    key = generate_key()
    assert run(fetched_again, target, key=key)[-1].outcome is ConvertOutcome.SIGNED
    signature, index = (target / SIGNATURE_NAME).read_bytes(), (target / INDEX_NAME).read_bytes()
    assert key.public.verifies(signature, index)


@pytest.mark.parametrize("place", [-1, -4000, -20_000])
def test_one_other_bit_is_another_input(target: Path, source: Path, place: int) -> None:
    before = state(target)
    path = source / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(Conflict, match="checkpoint of another input"):
        run(source, target)
    assert state(target) == before


@pytest.mark.parametrize(
    ("changed", "options"),
    [
        ("tokenizer.json", {}),
        ("config.json", {}),
        ("", {"version": "m-v1.0.0"}),
        ("", {"model": "other"}),
        ("", {"dtype": "float16"}),
        ("", {"max_file_bytes": 8192}),
    ],
)
def test_what_differs_in_the_index_is_told_before_weights_are_read(
    target: Path, source: Path, changed: str, options: dict[str, Any]
) -> None:
    before = state(target)
    if changed:
        text = (source / changed).read_text()
        (source / changed).write_text(text.replace("{", '{"new": 1, ', 1))
    steps = convert(source, target, ConvertOptions(**options))
    with pytest.raises(Conflict, match="checkpoint of another input"):
        next(steps)
    assert state(target) == before
