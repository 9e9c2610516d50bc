"""``lite-llm inspect``: counts, the bound on what a token touches, where tiers fit, signatures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from lite_llm.cli.app import app
from lite_llm.trust import PublicKey

LAYERS, EXPERTS, HIDDEN, FFN, VOCAB = 2, 4, 8, 16, 32
EXPERT_PARAMETERS = 3 * HIDDEN * FFN
DENSE_PARAMETERS = VOCAB * HIDDEN + LAYERS * EXPERTS * HIDDEN
TIERS = """
tiers:
  - {name: near, placement: hot, experts: "0", top_k_experts: 1}
  - {name: middle, placement: warm, experts: "1", top_k_experts: 1}
  - {name: far, placement: cold, experts: rest, top_k_experts: 1}
"""


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """Mixtral's layout with random weights, dense parts left out but one."""
    directory = tmp_path / "mixture"
    directory.mkdir()
    fields = {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_hidden_layers": LAYERS,
        "num_local_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
    }
    (directory / "config.json").write_text(json.dumps(fields))
    random = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        block = f"model.layers.{layer}.block_sparse_moe"
        shapes[f"{block}.gate.weight"] = (EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            shapes[f"{block}.experts.{expert}.w1.weight"] = (FFN, HIDDEN)
            shapes[f"{block}.experts.{expert}.w2.weight"] = (HIDDEN, FFN)
            shapes[f"{block}.experts.{expert}.w3.weight"] = (FFN, HIDDEN)
    tensors = {name: random.random(shape, np.float32) for name, shape in shapes.items()}
    save_file(tensors, directory / "model.safetensors")
    return directory


@pytest.fixture
def tiered(mixture: Path, tmp_path: Path) -> Path:
    (tmp_path / "tiers.yaml").write_text(TIERS)
    run("convert", mixture, tmp_path / "tiered", "--tiers", tmp_path / "tiers.yaml")
    return tmp_path / "tiered"


def test_the_most_that_one_token_touches(mixture: Path, tiered: Path) -> None:
    for path, tiers, running in ((mixture, 1, 2), (tiered, 3, 3)):
        told = json.loads(run("inspect", path, "--json"))
        assert told["architecture"] == "MixtralForCausalLM"
        assert told["dense_parameters"] == DENSE_PARAMETERS
        assert told["expert_parameters"] == LAYERS * EXPERTS * EXPERT_PARAMETERS
        active = DENSE_PARAMETERS + LAYERS * running * EXPERT_PARAMETERS
        assert (told["active_parameters"], told["active_bytes"]) == (active, 4 * active)
        assert len(told["tiers"]) == tiers
    assert [tier["experts"] for tier in told["tiers"]] == [2, 2, 4]
    output = run("inspect", tiered)
    assert "tier far " in output
    assert "placement cold, experts 4" in output


def test_where_each_tier_would_fit(tiered: Path) -> None:
    dense, expert = 4 * DENSE_PARAMETERS, 4 * EXPERT_PARAMETERS
    sizes = ["--gpu", f"{dense + expert}", "--dram", "4 GiB", "--nvme", "1 TiB"]
    told = json.loads(run("inspect", tiered, *sizes, "--json"))
    assert told["media"] == {"gpu": dense + expert, "dram": 4 << 30, "nvme": 1 << 40}
    assert [(home["name"], home["medium"]) for home in told["fit"]] == [
        ("dense", "gpu"), ("near", "dram"), ("middle", "dram"), ("far", "nvme")
    ]  # fmt: skip
    assert told["fit"][1] == {
        "name": "near", "bytes": 2 * expert, "wanted": "gpu", "medium": "dram",
        "wanted_left_bytes": expert,
    }  # fmt: skip
    lines = run("inspect", tiered, *sizes).splitlines()
    assert any("near" in line and "in dram: gpu has only 1.5 KiB left" in line for line in lines)
    assert any("far" in line and line.endswith("in nvme") for line in lines)
    lines = run("inspect", tiered, *sizes[2:4], "--gpu", "1", "--nvme", "1").splitlines()
    assert any("dense" in line and "in no medium: gpu has only 1 B left" in line for line in lines)
    assert any("far" in line and "in object store" in line for line in lines)


def test_the_room_that_is_not_given_is_this_machines(mixture: Path) -> None:
    media = json.loads(run("inspect", mixture, "--json"))["media"]
    assert media["dram"] > 64 << 20
    assert media["nvme"] > 0
    assert media["gpu"] >= 0


def test_the_state_of_the_signature(mixture: Path, tiered: Path, tmp_path: Path) -> None:
    def state(path: Path, *keys: str) -> dict[str, str]:
        found = json.loads(run("inspect", path, "--json", *keys))["signature"]
        assert isinstance(found, dict)
        return found

    for name in ("ours", "theirs"):
        run("keygen", tmp_path / name)
    ours, theirs = (f"--key={tmp_path / name}.pub" for name in ("ours", "theirs"))
    unsigned = {"state": "none", "key": ""}
    assert state(mixture, ours) == state(tiered) == state(tiered, ours) == unsigned
    rules = tmp_path / "tiers.yaml"
    run("convert", mixture, tiered, "--tiers", rules, "--sign", tmp_path / "ours")
    fingerprint = PublicKey.load(tmp_path / "ours.pub").fingerprint
    assert state(tiered) == {"state": "unchecked", "key": ""}
    assert state(tiered, theirs) == {"state": "wrong", "key": ""}
    assert state(tiered, theirs, ours) == {"state": "valid", "key": fingerprint}
    assert f"valid by key {fingerprint}" in run("inspect", tiered, ours)
