"""``lite-llm convert | inspect | verify`` on tiny checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from lite_llm.cli.app import app
from lite_llm.contracts.errors import Conflict, Corrupt, Forbidden
from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.trust import generate_key

LAYERS, EXPERTS, HIDDEN, FFN, VOCAB = 2, 4, 8, 16, 32
EXPERT_PARAMETERS = 3 * HIDDEN * FFN


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "dense", seed=1)


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


def test_convert_then_verify_and_once_more(dense: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    assert " files, " in run("convert", dense, target).output
    assert "every byte as it should be" in run("verify", target).output
    assert "converted already, nothing to do" in run("convert", dense, target).output


def test_a_target_that_holds_something_else_is_left_alone(
    dense: Path, mixture: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    run("convert", dense, target)
    before = (target / "checkpoint.idx").read_bytes()
    with pytest.raises(Conflict, match="target"):
        run("convert", mixture, target)
    assert (target / "checkpoint.idx").read_bytes() == before


def test_inspect_counts_what_one_token_touches(mixture: Path, tmp_path: Path) -> None:
    rules = tmp_path / "tiers.yaml"
    rules.write_text(
        """
tiers:
  - {name: hot, placement: hot, experts: "0", top_k_experts: 1}
  - {name: cold, placement: cold, experts: rest, top_k_experts: 1}
"""
    )
    run("convert", mixture, tmp_path / "tiered", "--tiers", rules)
    dense_parameters = VOCAB * HIDDEN + LAYERS * EXPERTS * HIDDEN
    for path, tiers in ((mixture, 1), (tmp_path / "tiered", 2)):
        told = json.loads(run("inspect", path, "--json").output)
        assert told["architecture"] == "MixtralForCausalLM"
        assert told["dense_parameters"] == dense_parameters
        assert told["expert_parameters"] == LAYERS * EXPERTS * EXPERT_PARAMETERS
        assert told["active_parameters"] == dense_parameters + LAYERS * 2 * EXPERT_PARAMETERS
        assert len(told["tiers"]) == tiers
    output = run("inspect", tmp_path / "tiered").output
    assert "name cold, placement cold, experts 6" in output


def test_a_flipped_bit_is_named(dense: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    run("convert", dense, target)
    (first, *_) = sorted(target.glob("*.bin"))
    data = bytearray(first.read_bytes())
    data[5] ^= 4
    first.write_bytes(data)
    runner = CliRunner().invoke(app, ["verify", str(target)])
    assert isinstance(runner.exception, Corrupt)
    assert f"{first.name}: chunk 0 at offset 0 does not match its checksum" in runner.output


def test_a_signature_by_the_wrong_key_is_refused(dense: Path, tmp_path: Path) -> None:
    ours, theirs = generate_key(), generate_key()
    ours.save(tmp_path / "ours.pem")
    for key, name in ((ours, "ours.pub"), (theirs, "theirs.pub")):
        (tmp_path / name).write_bytes(key.public.pem)
    target = tmp_path / "target"
    run("convert", dense, target, "--sign", tmp_path / "ours.pem")
    assert "as it should be" in run("verify", target, "--public-key", tmp_path / "ours.pub").output
    with pytest.raises((Corrupt, Forbidden)):
        run("verify", target, "--public-key", tmp_path / "theirs.pub")
