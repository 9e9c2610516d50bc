"""However an expert is stored, the same matrices come of it; what can't be used is named."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from lite_llm.contracts.errors import Corrupt, LiteLLMError, Unsupported
from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.manifest import ExpertRecord, Span, TensorRecord
from lite_llm.experts import check_layer, matrices_of, mxfp4

DIM, INNER = 64, 96
RANDOM = torch.Generator().manual_seed(1)
GATE, UP = (torch.randn(INNER, DIM, generator=RANDOM) for _ in range(2))
DOWN = torch.randn(DIM, INNER, generator=RANDOM)
GATE_BIAS, UP_BIAS = (torch.randn(INNER, generator=RANDOM) for _ in range(2))
DOWN_BIAS = torch.randn(DIM, generator=RANDOM)


def alternating(gate: Tensor, up: Tensor) -> Tensor:
    return torch.stack((gate, up), dim=1).flatten(0, 1)


LAYOUTS = {
    "separate": {"gate.weight": GATE, "up.weight": UP, "down.weight": DOWN}
    | {"gate.bias": GATE_BIAS, "up.bias": UP_BIAS},
    "fused": {"gate_up.weight": torch.cat((GATE, UP)), "down.weight": DOWN}
    | {"gate_up.bias": torch.cat((GATE_BIAS, UP_BIAS))},
    "fused, transposed": {
        "gate_up.weight_transposed": torch.cat((GATE, UP)).T.contiguous(),
        "down.weight_transposed": DOWN.T.contiguous(),
        "gate_up.bias": torch.cat((GATE_BIAS, UP_BIAS)),
    },
    "alternating, transposed": {
        "gate_up_interleaved.weight_transposed": alternating(GATE, UP).T.contiguous(),
        "down.weight_transposed": DOWN.T.contiguous(),
        "gate_up_interleaved.bias": alternating(GATE_BIAS, UP_BIAS),
    },
}
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.uint8: "U8", torch.int8: "I8"}


def record(row: int, parts: dict[str, Tensor]) -> ExpertRecord:
    return ExpertRecord(
        ExpertKey(3, 0, 0, row),
        tuple(
            TensorRecord(name, Span("x", 0, part.nbytes), tuple(part.shape), DTYPES[part.dtype])
            for name, part in parts.items()
        ),
        row,
    )


def check(experts: Iterable[ExpertRecord], *, biased: bool = True, count: int = 1) -> None:
    check_layer(3, list(experts), count=count, hidden_size=DIM, inner_size=INNER, biased=biased)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("biased", [False, True])
def test_every_layout_gives_the_same_matrices(layout: str, biased: bool) -> None:
    parts = {**LAYOUTS[layout], "down.bias": DOWN_BIAS}
    if not biased:
        parts = {name: part for name, part in parts.items() if not name.endswith("bias")}
    check([record(0, parts)], biased=biased)
    expert = matrices_of(parts, torch.float32)
    for matrix, weight, bias in (
        (expert.gate, GATE, GATE_BIAS),
        (expert.up, UP, UP_BIAS),
        (expert.down, DOWN, DOWN_BIAS),
    ):
        assert torch.equal(matrix.weight_NK, weight)
        assert matrix.weight_NK.is_contiguous()
        assert (matrix.bias_N is None) == (not biased)
        assert matrix.bias_N is None or torch.equal(matrix.bias_N, bias)


def test_what_lies_as_it_is_used_is_not_copied() -> None:
    expert = matrices_of(LAYOUTS["separate"], torch.float32)
    assert expert.gate.weight_NK.data_ptr() == GATE.data_ptr()
    assert expert.down.weight_NK.data_ptr() == DOWN.data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_mxfp4_is_that_of_transformers(dtype: torch.dtype) -> None:
    blocks = torch.randint(0, 256, (6, 4, 16), generator=RANDOM, dtype=torch.uint8)
    scales = torch.randint(100, 140, (6, 4), generator=RANDOM, dtype=torch.uint8)
    theirs = convert_moe_packed_tensors(blocks[None], scales[None], dtype=dtype)[0].T
    ours = mxfp4(blocks, scales, dtype)
    assert ours.dtype is dtype
    assert torch.equal(ours, theirs)


def test_mxfp4_experts_of_gpt_oss() -> None:
    both = torch.randint(0, 256, (2 * INNER, DIM // 32, 16), generator=RANDOM, dtype=torch.uint8)
    down = torch.randint(0, 256, (DIM, INNER // 32, 16), generator=RANDOM, dtype=torch.uint8)
    parts = {
        "gate_up_interleaved.blocks": both,
        "down.blocks": down,
        "gate_up_interleaved.scales": torch.full((2 * INNER, DIM // 32), 128, dtype=torch.uint8),
        "down.scales": torch.full((DIM, INNER // 32), 126, dtype=torch.uint8),
        "gate_up_interleaved.bias": alternating(GATE_BIAS, UP_BIAS),
        "down.bias": DOWN_BIAS,
    }
    check([record(0, parts)])
    expert = matrices_of(parts, torch.bfloat16)
    plain = mxfp4(both, parts["gate_up_interleaved.scales"], torch.bfloat16)
    assert torch.equal(expert.gate.weight_NK, plain[0::2])
    assert torch.equal(expert.up.weight_NK, plain[1::2])
    assert expert.down.weight_NK.shape == (DIM, INNER)
    assert torch.equal(expert.up.bias_N, UP_BIAS) if expert.up.bias_N is not None else False


SEPARATE = {"gate.weight": GATE, "up.weight": UP, "down.weight": DOWN}
SCALE = torch.ones(1, 1)


@pytest.mark.parametrize(
    ("parts", "error", "words"),
    [
        ({}, Corrupt, "expert 3.0.0.0 consists of nothing"),
        ({"gate.weight": GATE, "up.weight": UP}, Corrupt, "consists of gate, up"),
        ({**SEPARATE, "gate_up.weight": GATE}, Corrupt, "consists of down, gate, gate_up, up"),
        ({**SEPARATE, "down.weight": DOWN.T}, Corrupt, r"down.weight of .* shape \(96, 64\), not"),
        ({**SEPARATE, "gate.bias": GATE_BIAS}, Unsupported, "has a part gate.bias"),
        ({**SEPARATE, "up.weight_scale_inv": SCALE}, Unsupported, "a part up.weight_scale_inv"),
        ({**SEPARATE, "up.weight": UP.to(torch.int8)}, Unsupported, "up.weight of .* dtype I8"),
        ({**SEPARATE, "up.weight": UP.to(torch.uint8)}, Unsupported, "dtype U8"),
        (
            {"gate.blocks": GATE, "up.weight": UP, "down.weight": DOWN},
            Corrupt,
            r"gate.blocks of .* has shape \(96, 64\), not|has no gate.scales",
        ),
    ],
)
def test_parts_that_can_not_be_used_are_named(
    parts: dict[str, Tensor], error: type[LiteLLMError], words: str
) -> None:
    with pytest.raises(error, match=words):
        check([record(0, parts)], biased=False)


def test_a_missing_bias_is_named() -> None:
    with pytest.raises(Corrupt, match=r"has no down\.bias"):
        check([record(0, LAYOUTS["separate"])])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((), "layer 3 has 0 experts, not 3"),
        ((0, 1), "layer 3 has 2 experts, not 3"),
        ((0, 2, 3), "layer 3 has no expert 1"),
        ((0, 1, 1), "layer 3 has no expert 2"),
    ],
)
def test_missing_experts_are_named(rows: tuple[int, ...], words: str) -> None:
    with pytest.raises(Corrupt, match=words):
        check((record(row, SEPARATE) for row in rows), biased=False, count=3)
