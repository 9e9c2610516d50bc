"""Hugging Face directories: layouts mixed in one, groups, shards, links, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lite_llm.checkpoint import Reader, convert, open_checkpoint
from lite_llm.contracts.errors import Corrupt, Unsupported
from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.tiers import Placement

Tensors = dict[str, np.ndarray[Any, Any]]
MakeSource = Callable[..., Path]

NUM, FFN, DIM = 4, 6, 8  # experts, intermediate size, hidden size
RANDOM = np.random.default_rng(5)


def matrix(*shape: int) -> np.ndarray[Any, Any]:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def single(block: str, gate: str, up: str, down: str) -> Tensors:
    return {
        f"model.layers.1.{block}.{expert}.{name}.weight": matrix(*shape)
        for expert in range(NUM)
        for name, shape in ((gate, (FFN, DIM)), (up, (FFN, DIM)), (down, (DIM, FFN)))
    }


SINGLE = single("mlp.experts", "gate_proj", "up_proj", "down_proj")


def open_with(make_source: MakeSource, tensors: Tensors, **config: Any) -> Reader:
    return open_checkpoint(make_source(tensors, **({"hidden_size": DIM} | config)))


def test_layouts_may_be_mixed_in_one_checkpoint(make_source: MakeSource, tmp_path: Path) -> None:
    fused, down = matrix(NUM, 2 * FFN, DIM), matrix(NUM, DIM, FFN)
    tensors = SINGLE | {
        "model.layers.0.mlp.experts.gate_up_proj": fused,
        "model.layers.0.mlp.experts.down_proj": down,
    }
    with open_with(make_source, tensors, shards=3) as reader:
        for _ in convert(reader.directory, tmp_path / "converted"):
            pass
        with open_checkpoint(tmp_path / "converted") as converted:
            for found in (reader, converted):
                assert len(found.manifest.experts) == 2 * NUM
                parts = found.expert(ExpertKey(0, 0, 0, 3))
                assert np.array_equal(parts["up.weight"], fused[3, FFN:])
                parts = found.expert(ExpertKey(1, 0, 0, 3))
                name = "model.layers.1.mlp.experts.3.up_proj.weight"
                assert np.array_equal(parts["up.weight"], tensors[name])


def test_deepseeks_scales_groups_and_shared_experts(make_source: MakeSource) -> None:
    stem = "model.layers.3.mlp"
    scale = "weight_scale_inv"
    tensors: Tensors = {f"{stem}.shared_experts.gate_proj.weight": matrix(FFN, DIM)}
    for expert in range(8):
        for name in ("gate_proj", "up_proj", "down_proj"):
            tensors[f"{stem}.experts.{expert}.{name}.weight"] = matrix(FFN, DIM)
            tensors[f"{stem}.experts.{expert}.{name}.{scale}"] = matrix(1, 1)
    tensors["model.mtp.layers.0.mlp.experts.0.gate_proj.weight"] = matrix(FFN, DIM)
    config = {"n_group": 4, "topk_group": 2, "num_experts_per_tok": 4}
    with open_with(make_source, tensors, model_type="deepseek_v3", **config) as reader:
        (tier,) = reader.manifest.tiers
        assert (tier.groups, tier.experts_per_group, tier.placement) == (4, 2, Placement.HOT)
        assert (tier.top_k_groups, tier.top_k_experts, tier.active_experts) == (2, 2, 4)
        assert [record.router_row for record in reader.manifest.experts] == list(range(8))
        record = reader.manifest.expert_by_key[ExpertKey(3, 0, 2, 1)]
        assert record.router_row == 5
        names = [f"{role}.weight" for role in ("gate", "up", "down")]
        names += [f"{role}.{scale}" for role in ("gate", "up", "down")]
        assert [part.name for part in record.parts] == names
        assert tier.parameter_budget == sum(e.num_parameters for e in reader.manifest.experts)
        assert len(reader.manifest.tensors) == 2


def test_two_tensors_for_one_part_are_refused(make_source: MakeSource) -> None:
    tensors = SINGLE | {"model.layers.1.mlp.experts.down_proj": matrix(NUM, DIM, FFN)}
    with pytest.raises(Corrupt, match="expert 0 in layer 1"):
        open_with(make_source, tensors)


def test_one_tensor_in_two_shards_is_refused(make_source: MakeSource) -> None:
    source = make_source(shards=2)
    first, second = sorted(source.glob("*.safetensors"))
    save_file(load_file(second) | load_file(first), second)
    with pytest.raises(Corrupt, match=r"is in model-00001-of-00002\.safetensors, too"):
        open_checkpoint(source)


@pytest.mark.parametrize(
    ("file", "words"),
    [("../up.safetensors", "up"), ("a/b.safetensors", "a/b"), ("x.bin", "x.bin"), ("", "''")],
)
def test_names_in_the_shard_index_stay_inside(
    make_source: MakeSource, file: str, words: str
) -> None:
    source = make_source(shards=2)
    path = source / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"lm_head.weight": file}}))
    with pytest.raises(Corrupt, match=words):
        open_checkpoint(source)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"weight_map": {}}', "names no file"),
        ('{"weight_map": {"a": 3}}', "str"),
        ("{}", "weight_map"),
        ('{"weight_map": {"a": "m.safetensors", "a": "n.safetensors"}}', "twice"),
        ('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}', "a is not in"),
    ],
)
def test_a_shard_index_that_lies_is_refused(make_source: MakeSource, text: str, words: str) -> None:
    source = make_source(shards=2)
    (source / "model.safetensors.index.json").write_text(text)
    with pytest.raises(Corrupt, match=words):
        open_checkpoint(source)


def test_infinity_in_a_config_is_spelled_as_transformers_does(source: Path) -> None:
    (source / "config.json").write_text('{"time_step_limit": [0.0, Infinity], "model_type": "m"}')
    with open_checkpoint(source) as reader:
        assert reader.manifest.architecture["time_step_limit"] == [0.0, {"__float__": "Infinity"}]


def test_the_hubs_cache_of_links_opens_under_the_models_name(source: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--some--model" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    for path in source.iterdir():
        (snapshot / path.name).symlink_to(path)
    with open_checkpoint(snapshot) as reader:
        assert reader.manifest.model == "some/model"
        assert reader.tensor("lm_head.weight").shape == (32, 16)


def test_pickles_are_not_opened_unasked(source: Path) -> None:
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(Unsupported, match="convert"):
        open_checkpoint(source)
