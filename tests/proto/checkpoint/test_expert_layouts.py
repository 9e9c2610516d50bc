"""Every layout of experts on the hub: the names of a record's parts alone say how to use them.

Legend of suffixes: E experts, I intermediate size, H hidden size, G groups of 32 in MXFP4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lite_llm.checkpoint import Reader, convert, open_checkpoint
from lite_llm.contracts.manifest import ExpertRecord, Manifest

Array = np.ndarray[Any, Any]
Weights = dict[str, Array]
MakeSource = Callable[..., Path]

NUM, FFN, DIM, BLOCK = 4, 256, 512, 128
"""2 * FFN is DIM: where gate and up are in one, the shape tells nothing about the order."""

RANDOM = np.random.default_rng(7)
STEM = "model.layers.3."
ROLES = ("gate", "up", "down")


def matrix(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float16)


def octets(*shape: int) -> Array:
    return RANDOM.integers(0, 255, shape, dtype=np.uint8)


def matrices(ffn: int = FFN) -> Weights:
    return {
        "gate.weight": matrix(NUM, ffn, DIM),
        "up.weight": matrix(NUM, ffn, DIM),
        "down.weight": matrix(NUM, DIM, ffn),
    }


def scales(kind: str) -> Weights:
    rows, columns = FFN // BLOCK, DIM // BLOCK
    shapes = ((rows, columns), (rows, columns), (columns, rows))
    return {f"{r}.{kind}": matrix(NUM, *s) for r, s in zip(ROLES, shapes, strict=True)}


def biases() -> Weights:
    sizes = (FFN, FFN, DIM)
    return {f"{r}.bias": matrix(NUM, size) for r, size in zip(ROLES, sizes, strict=True)}


def mxfp4() -> Weights:
    return {
        "gate.blocks": octets(NUM, FFN, DIM // 32, 16),
        "up.blocks": octets(NUM, FFN, DIM // 32, 16),
        "down.blocks": octets(NUM, DIM, FFN // 32, 16),
        "gate.scales": octets(NUM, FFN, DIM // 32),
        "up.scales": octets(NUM, FFN, DIM // 32),
        "down.scales": octets(NUM, DIM, FFN // 32),
    }


def singly(weights: Weights, block: str, names: Mapping[str, str]) -> Weights:
    return {
        f"{STEM}{block}.experts.{expert}.{names[name.split('.')[0]]}.{name.split('.')[1]}": each
        for name, value in weights.items()
        for expert, each in enumerate(value)
    }


def fused(
    weights: Weights,
    gate_up: str,
    down: str,
    *,
    transposed: bool = False,
    interleaved: bool = False,
    separator: str = "_",
) -> Weights:
    tensors = {}
    for kind in {name.split(".")[1]: None for name in weights}:
        pair = weights[f"gate.{kind}"], weights[f"up.{kind}"]
        both = np.stack(pair, 2).reshape(NUM, -1, *pair[0].shape[2:])
        both = both if interleaved else np.concatenate(pair, 1)
        for name, value in ((gate_up, both), (down, weights[f"down.{kind}"])):
            ending = "" if kind == "weight" else f"{separator}{kind}"
            turned = value.swapaxes(1, 2) if transposed and kind == "weight" else value
            tensors[f"{STEM}{name}{ending}"] = np.ascontiguousarray(turned)
    return tensors


PROJ = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
MIXTRAL = {"gate": "w1", "up": "w3", "down": "w2"}
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
LLAMA4 = ("feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj")
GRANITE = (
    "block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight",
)  # fmt: skip
TURNED = ["gate_up.weight_transposed", "down.weight_transposed"]


@dataclass(frozen=True)
class Case:
    """A family's checkpoint: what its experts are, as which tensors they are stored."""

    family: str
    expected: Weights
    tensors: Weights
    parts: list[str] = field(default_factory=list)
    """Names of an expert's parts; empty for those of ``expected``."""


def single(family: str, block: str, names: Mapping[str, str], weights: Weights) -> Case:
    return Case(family, weights, singly(weights, block, names))


def together(
    family: str, names: tuple[str, str], weights: Weights, *parts: str, **how: Any
) -> Case:
    return Case(family, weights, fused(weights, *names, **how), list(parts))


FP8 = "weight_scale_inv"
CASES = {
    "mixtral": single("mixtral", "block_sparse_moe", MIXTRAL, matrices()),
    "qwen2": single("qwen2_moe", "mlp", PROJ, matrices()),
    "qwen3": single("qwen3_moe", "mlp", PROJ, matrices()),
    "olmoe": single("olmoe", "mlp", PROJ, matrices()),
    "glm": single("glm4_moe", "mlp", PROJ, matrices()),
    "jamba": single("jamba", "feed_forward", PROJ, matrices()),
    "deepseek-fp8": single("deepseek_v3", "mlp", PROJ, matrices() | scales(FP8)),
    "granite": together("granitemoe", GRANITE, matrices()),
    "transformers-5": together("qwen3_moe", EXPERTS, matrices()),
    "transformers-5-odd": together("mixtral", EXPERTS, matrices(ffn=3)),
    "transformers-5-fp8": together("deepseek_v3", EXPERTS, matrices() | scales("scale_inv")),
    "transformers-5-bias": together("ernie4_5_moe", EXPERTS, matrices() | biases()),
    "gpt-oss-mxfp4": together(
        "gpt_oss", EXPERTS, mxfp4() | biases(),
        "gate_up_interleaved.blocks", "down.blocks", "gate_up_interleaved.scales", "down.scales",
        "gate_up_interleaved.bias", "down.bias", interleaved=True,
    ),
    "gpt-oss-bf16": together(
        "gpt_oss", EXPERTS, matrices() | biases(),
        "gate_up_interleaved.weight_transposed", "down.weight_transposed",
        "gate_up_interleaved.bias", "down.bias", interleaved=True, transposed=True,
    ),
    "llama4": together("llama4_text", LLAMA4, matrices(), *TURNED, transposed=True),
    "by-shape": together("qwen3_vl_moe", EXPERTS, matrices(ffn=6), *TURNED, transposed=True),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def saved(case: Case, make_source: MakeSource) -> Path:
    router = {f"{STEM}mlp.router.weight": matrix(NUM, DIM)}
    config = {"model_type": case.family, "hidden_size": DIM, "num_experts_per_tok": 2}
    return make_source(case.tensors | router, shards=2, **config)


def as_linear_layers(parts: Mapping[str, Array]) -> Weights:
    """The rule of docs/checkpoint-format.md: all that a reader has to know."""
    found = {}
    for name, stored in parts.items():
        role, kind = name.split(".", 1)
        value = stored.T if kind == "weight_transposed" else stored
        kind = kind.removesuffix("_transposed")
        if role == "gate_up":
            found[f"gate.{kind}"], found[f"up.{kind}"] = np.split(value, 2)
        elif role == "gate_up_interleaved":
            found[f"gate.{kind}"], found[f"up.{kind}"] = value[0::2], value[1::2]
        else:
            found[f"{role}.{kind}"] = value
    return found


def raw(reader: Reader, expert: ExpertRecord) -> list[tuple[str, str, tuple[int, ...], bytes]]:
    return [
        (part.name, part.dtype, part.shape, bytes(reader.read_checked(part.span)))
        for part in expert.parts
    ]


def dense_names(manifest: Manifest) -> list[str]:
    return [record.name for record in manifest.tensors]


def test_every_layout_can_be_used_by_the_names_of_its_parts(case: Case, saved: Path) -> None:
    with open_checkpoint(saved) as reader:
        assert dense_names(reader.manifest) == [f"{STEM}mlp.router.weight"]
        assert len(reader.manifest.experts) == NUM
        for number, expert in enumerate(reader.manifest.experts):
            parts = reader.expert(expert.key)
            assert list(parts) == (case.parts or list(case.expected))
            found = as_linear_layers(parts)
            assert found.keys() == case.expected.keys()
            for name, value in found.items():
                assert np.array_equal(value, case.expected[name][number]), name


def test_converting_keeps_every_byte_of_an_expert(saved: Path, tmp_path: Path) -> None:
    for _ in convert(saved, tmp_path / "ours"):
        pass
    with open_checkpoint(saved) as before, open_checkpoint(tmp_path / "ours") as after:
        assert dense_names(before.manifest) == dense_names(after.manifest)
        for old, new in zip(before.manifest.experts, after.manifest.experts, strict=True):
            assert (old.key, old.router_row) == (new.key, new.router_row)
            assert raw(before, old) == raw(after, new)
            assert new.span is not None


@pytest.mark.parametrize("scale_shape", [(NUM,), (NUM, 1), (NUM, 3, 4)], ids=str)
def test_a_scale_of_both_halves_keeps_them_together(
    scale_shape: tuple[int, ...], make_source: MakeSource
) -> None:
    ffn = 3 * BLOCK // 2  # the middle one of three rows of a scale stands for gate and up
    weights = matrices(ffn)
    tensors = fused(weights, *EXPERTS) | {f"{STEM}{EXPERTS[0]}_scale_inv": matrix(*scale_shape)}
    with open_checkpoint(make_source(tensors, hidden_size=DIM)) as reader:
        for number, expert in enumerate(reader.manifest.experts):
            parts = reader.expert(expert.key)
            assert list(parts) == ["gate_up.weight", "down.weight", "gate_up.scale_inv"]
            both = weights["gate.weight"][number], weights["up.weight"][number]
            assert np.array_equal(parts["gate_up.weight"], np.concatenate(both))


def test_a_shared_expert_is_dense_whatever_it_is_called(make_source: MakeSource) -> None:
    shared = {
        f"{STEM}shared_mlp.input_linear.weight": matrix(2 * FFN, DIM),
        f"{STEM}shared_mlp.output_linear.weight": matrix(DIM, FFN),
        f"{STEM}mlp.shared_expert.gate_proj.weight": matrix(FFN, DIM),
        f"{STEM}mlp.shared_experts.gate_proj.weight": matrix(FFN, DIM),
    }
    tensors = shared | fused(matrices(), *GRANITE)
    with open_checkpoint(make_source(tensors, model_type="granitemoeshared")) as reader:
        assert sorted(dense_names(reader.manifest)) == sorted(shared)
        assert len(reader.manifest.experts) == NUM


def test_a_fused_tensor_of_no_experts_stays_in_sight(make_source: MakeSource) -> None:
    name = f"{STEM}{EXPERTS[0]}"
    with open_checkpoint(make_source({name: np.empty((0, 4, 4), np.float32)})) as reader:
        assert dense_names(reader.manifest) == [name]
