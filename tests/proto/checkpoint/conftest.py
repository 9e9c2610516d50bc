"""Small checkpoints that the tests of this room share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lite_llm.checkpoint import ConvertOptions, convert

LAYERS, EXPERTS, HIDDEN, FFN = 2, 4, 16, 24

Tensors = dict[str, np.ndarray[Any, Any]]
MakeSource = Callable[..., Path]


def moe_tensors(seed: int = 0) -> Tensors:
    """Random weights of a tiny Mixtral, one tensor per expert and matrix."""
    random = np.random.default_rng(seed)

    def matrix(*shape: int) -> np.ndarray[Any, Any]:
        return random.standard_normal(shape, dtype=np.float32)

    tensors = {
        "model.embed_tokens.weight": matrix(32, HIDDEN),
        "lm_head.weight": matrix(32, HIDDEN),
    }
    for layer in range(LAYERS):
        block = f"model.layers.{layer}.block_sparse_moe"
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = matrix(HIDDEN)
        tensors[f"{block}.gate.weight"] = matrix(EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            tensors[f"{block}.experts.{expert}.w1.weight"] = matrix(FFN, HIDDEN)
            tensors[f"{block}.experts.{expert}.w2.weight"] = matrix(HIDDEN, FFN)
            tensors[f"{block}.experts.{expert}.w3.weight"] = matrix(FFN, HIDDEN)
    return tensors


@pytest.fixture
def tensors() -> Tensors:
    return moe_tensors()


@pytest.fixture
def make_source(tmp_path: Path) -> MakeSource:
    """Writes tensors as a Hugging Face directory."""

    def make(
        tensors: Tensors | None = None, *, name: str = "source", shards: int = 1, **config: Any
    ) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        fields = {"model_type": "mixtral", "hidden_size": HIDDEN, "num_experts_per_tok": 2}
        (directory / "config.json").write_text(json.dumps(fields | config))
        (directory / "tokenizer.json").write_text('{"version": "1.0"}')
        items = list((moe_tensors() if tensors is None else tensors).items())
        if shards == 1:
            save_file(dict(items), directory / "model.safetensors")
            return directory
        weight_map: dict[str, str] = {}
        for number in range(shards):
            file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
            part = dict(items[number::shards])
            save_file(part, directory / file)
            weight_map |= dict.fromkeys(part, file)
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
        return directory

    return make


@pytest.fixture
def source(make_source: MakeSource) -> Path:
    return make_source()


@pytest.fixture
def converted(source: Path, tmp_path: Path) -> Path:
    """The tiny Mixtral in our own format."""
    finish(convert(source, tmp_path / "converted", ConvertOptions(version="tiny-v1.0.0")))
    return tmp_path / "converted"


def finish(steps: Iterator[Any]) -> None:
    """Do all of a generator's work."""
    for _ in steps:
        pass
