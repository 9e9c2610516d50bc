"""A checkpoint's records are told apart before a byte is read: needed, left over, wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lite_llm.contracts.errors import Corrupt, LiteLLMError, Unsupported
from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.manifest import ExpertRecord, FileRecord, Manifest, Span, TensorRecord
from lite_llm.experts import tensor_of
from lite_llm.models import DecoderConfig, parse_config, take_inventory
from lite_llm.testing.checkpoints import Shape, llama_config, llama_tensors

SIZES = {"F32": 4, "BF16": 2, "F16": 2, "U8": 1, "I8": 1, "F64": 8, "F8_E4M3": 1}
LEFT_OVER = "model.layers.3.mlp.gate_proj.weight"


def record(name: str, shape: tuple[int, ...], dtype: str = "F32") -> TensorRecord:
    return TensorRecord(name, Span("a", 0, int(np.prod(shape)) * SIZES[dtype]), shape, dtype)


def manifest(changes: Mapping[str, TensorRecord | None] | None = None) -> Manifest:
    records = {name: record(name, array.shape) for name, array in llama_tensors(Shape(), 1).items()}
    wanted = {**records, **(changes or {})}
    return Manifest(
        model="tiny",
        architecture={},
        files=(FileRecord("a", 1 << 30),),
        tensors=tuple(each for each in wanted.values() if each is not None),
    )


def config(**changes: Any) -> DecoderConfig:
    return replace(parse_config(llama_config(Shape())), **changes)


def test_all_that_is_needed_and_nothing_else_is_read() -> None:
    plain = take_inventory(manifest(), config())
    assert plain.num_bytes == sum(array.nbytes for array in llama_tensors(Shape(), 1).values())
    assert plain.manifest == manifest()
    left = {
        LEFT_OVER: record(LEFT_OVER, (7, 7), "F64"),
        "model.layers.0.self_attn.rotary_emb.inv_freq": record(
            "model.layers.0.self_attn.rotary_emb.inv_freq", (8,)
        ),
    }
    assert take_inventory(manifest(left), config(extra_layers=1)).manifest == manifest()


@pytest.mark.parametrize("extra", [0, 1])
def test_layers_that_do_not_run_are_known_by_their_numbers(extra: int) -> None:
    beyond = LEFT_OVER.replace("3", str(3 + extra))
    with pytest.raises(Corrupt, match=f"{beyond} belongs to no part"):
        take_inventory(manifest({beyond: record(beyond, (7, 7))}), config(extra_layers=extra))


def test_a_tied_models_head_is_left_over() -> None:
    tied = take_inventory(manifest(), config(tied=True))
    assert tied.head is None
    assert "lm_head.weight" not in tied.manifest.tensor_by_name


@pytest.mark.parametrize(
    ("error", "words", "change"),
    [
        (Corrupt, "norm.weight of tiny is missing", None),
        (Corrupt, r"shape \(63,\), not \(64,\)", record("model.norm.weight", (63,))),
        (Corrupt, r"shape \(64, 1\), not", record("model.norm.weight", (64, 1))),
        (Unsupported, "dtype F64", record("model.norm.weight", (64,), "F64")),
        (Unsupported, "dtype F8_E4M3", record("model.norm.weight", (64,), "F8_E4M3")),
        (
            Corrupt,
            "has 255 bytes, not 256",
            TensorRecord("model.norm.weight", Span("a", 0, 255), (64,), "F32"),
        ),
    ],
)
def test_what_is_wrong_is_named(
    error: type[LiteLLMError], words: str, change: TensorRecord | None
) -> None:
    with pytest.raises(error, match=words) as refusal:
        take_inventory(manifest({"model.norm.weight": change}), config())
    assert refusal.value.where == "model.norm.weight"


def test_experts_belong_to_layers_that_are_there() -> None:
    parts = tuple(record(f"{part}.weight", (4, 4)) for part in ("gate", "up", "down"))

    def with_expert(layer: int, dtype: str = "F32") -> Manifest:
        typed = tuple(record(part.name, part.shape, dtype) for part in parts)
        expert = ExpertRecord(ExpertKey(layer, 0, 0, 0), typed, router_row=0)
        return replace(manifest(), experts=(expert,))

    with pytest.raises(Corrupt, match="layer 1 is dense"):
        take_inventory(with_expert(1), config())
    with pytest.raises(Corrupt, match="layer 3 has experts, but the model ends before it"):
        take_inventory(with_expert(3), config())
    assert take_inventory(with_expert(3), config(extra_layers=1)).manifest.experts == ()
    assert take_inventory(with_expert(3, "F64"), config(extra_layers=1)).manifest.experts == ()
    with pytest.raises(Unsupported, match=r"gate\.weight of expert 1\.0\.0\.0 .* dtype F64"):
        take_inventory(with_expert(1, "F64"), config())


def test_tensors_lie_over_the_bytes_unless_those_are_crooked() -> None:
    numbers = np.arange(6, dtype=np.float32)
    padded = memoryview(b"x" + numbers.tobytes() + b"abc")
    for dtype, offset in (("F32", 1), ("BF16", 1), ("U8", 1), ("F16", 2), ("F32", 4)):
        length = 24 if dtype == "F32" and offset == 1 else 8
        view = padded[offset : offset + length]
        shape = (2, length // SIZES[dtype] // 2)
        tensor = tensor_of(view, shape, dtype)
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        assert (tensor.shape, raw) == (shape, view.tobytes())
        lies_over = tensor.data_ptr() == np.frombuffer(view, np.uint8).ctypes.data
        assert lies_over is (np.frombuffer(view, np.uint8).ctypes.data % SIZES[dtype] == 0)
