"""Routing against a plain statement of the rule: sort by score, then by seeded rank."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.experts import (
    Gate,
    GroupScore,
    Level,
    Routed,
    Router,
    ScoresNotFinite,
    Scoring,
    Ties,
    TooFewExperts,
)

TIES = Ties.of_layer(4, routing_seed=99)
V3: dict[str, Any] = {
    "scoring": Scoring.SIGMOID,
    "normalized": True,
    "epsilon": 1e-20,
    "scale": 2.5,
    "group_score": GroupScore.BEST_TWO,
}
GATES = {
    "Mixtral": (8, Gate(top_k=2, normalized=True)),
    "Qwen2": (60, Gate(top_k=4)),
    "DeepSeek-V2": (32, Gate(top_k=6, groups=4, top_k_groups=2, scale=16.0)),
    "DeepSeek-V3": (32, Gate(top_k=8, groups=8, top_k_groups=4, **V3)),
    "GLM-4.5": (16, Gate(top_k=4, **V3)),
    "GPT-OSS": (32, Gate(top_k=4, scoring=Scoring.CHOSEN_SOFTMAX)),
    "all of them": (6, Gate(top_k=6)),
}


def best(keys: list[float], level: Level, k: int) -> list[int]:
    """The rule in one line; Python's floats hold a float32 and know no difference of zeros."""
    precedence = TIES.precedence(level, len(keys)).tolist()
    return sorted(range(len(keys)), key=lambda number: (-keys[number], -precedence[number]))[:k]


def expected(
    scores: Tensor, gate: Gate, bias: Tensor | None, allowed: Tensor | None
) -> tuple[list[int], Tensor]:
    """One row's experts and weights."""
    scores = scores.clone()
    if allowed is not None:
        scores[~allowed] = -torch.inf
    shares = scores.double().sigmoid().float() if gate.scoring is Scoring.SIGMOID else scores
    if gate.scoring is Scoring.SIGMOID:  # to the bit, for ties must be the same
        shares = 1.0 / (1.0 + (-scores).exp())
    keys = shares if bias is None else shares + bias
    if allowed is not None:
        keys = keys.masked_fill(~allowed, -torch.inf)
    size = len(keys) // gate.groups
    groups = [keys[begin : begin + size] for begin in range(0, len(keys), size)]
    group_keys = []
    for group in groups:
        finite = sorted(group[~group.isneginf()].tolist(), reverse=True)
        two = torch.tensor(finite[: 1 if gate.group_score is GroupScore.BEST else 2])
        group_keys.append(two.sum().item() if finite else -torch.inf)
    kept = best(group_keys, Level.GROUP, gate.top_k_groups)
    in_kept = [
        key if number // size in kept else -torch.inf for number, key in enumerate(keys.tolist())
    ]
    experts = sorted(best(in_kept, Level.EXPERT, gate.top_k))
    match gate.scoring:
        case Scoring.SOFTMAX:
            weights = scores.double().softmax(0)[experts]
        case Scoring.CHOSEN_SOFTMAX:
            weights = scores[experts].double().softmax(0)
        case Scoring.SIGMOID:
            weights = scores.double().sigmoid()[experts]
    if gate.normalized:
        weights = weights / (weights.sum() + gate.epsilon)
    return experts, (weights * gate.scale).float()


def check(
    routed: Routed,
    scores_TE: Tensor,
    gate: Gate,
    bias: Tensor | None = None,
    allowed: Tensor | None = None,
) -> None:
    for row, scores in enumerate(scores_TE):
        experts, weights = expected(scores, gate, bias, None if allowed is None else allowed[row])
        assert routed.experts_TK[row].tolist() == experts
        torch.testing.assert_close(routed.weights_TK[row], weights, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("step", [0.0, 0.5, 2.0])  # of quantisation: at 2 nearly all are ties
def test_every_family(name: str, step: float) -> None:
    experts, gate = GATES[name]
    random = torch.Generator().manual_seed(8)
    scores_TE = torch.randn(60, experts, generator=random) * 2
    if step:
        scores_TE = (scores_TE / step).round() * step
    bias_E = None
    if gate.scoring is Scoring.SIGMOID:
        bias_E = torch.randn(experts, generator=random).sub(1).mul(4).round() / 4
    router = Router(gate, experts, TIES)
    check(router.route(scores_TE, bias_E=bias_E), scores_TE, gate, bias_E)
    allowed_TE = torch.rand(60, experts, generator=random) < 0.8
    for row, group in itertools.product(range(60), range(gate.groups)):
        width = experts // gate.groups  # enough is left in any choice of groups
        first = group * width
        allowed_TE[row, first : first + -(-gate.top_k // gate.top_k_groups)] = True
    routed = router.route(scores_TE, bias_E=bias_E, allowed_TE=allowed_TE)
    check(routed, scores_TE, gate, bias_E, allowed_TE)
    assert allowed_TE.gather(1, routed.experts_TK).all()


@given(
    st.lists(
        st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.0**-149, -(2.0**-149)]), min_size=5, max_size=40
    ),
    st.data(),
)
def test_ties_of_any_kind(scores: list[float], data: st.DataObject) -> None:
    gate = Gate(top_k=data.draw(st.integers(1, len(scores))))
    routed = Router(gate, len(scores), TIES).route(torch.tensor([scores]))
    assert routed.experts_TK[0].tolist() == sorted(best(scores, Level.EXPERT, gate.top_k))


@pytest.mark.parametrize("name", GATES)
def test_a_row_does_not_know_its_batch(name: str) -> None:
    experts, gate = GATES[name]
    scores_TE = torch.randn(300, experts, generator=torch.Generator().manual_seed(3)).round(
        decimals=1
    )
    router = Router(gate, experts, TIES)
    whole = router.route(scores_TE)
    order_T = torch.randperm(300, generator=torch.Generator().manual_seed(4))
    permuted = router.route(scores_TE[order_T])
    assert torch.equal(permuted.experts_TK, whole.experts_TK[order_T])
    assert torch.equal(permuted.weights_TK, whole.weights_TK[order_T])
    for begin, end in ((0, 1), (7, 9), (250, 267), (1, 300)):
        part = router.route(scores_TE[begin:end])
        assert torch.equal(part.experts_TK, whole.experts_TK[begin:end])
        assert torch.equal(part.weights_TK, whole.weights_TK[begin:end])


def test_a_forbidden_expert_is_not_chosen_for_its_bias() -> None:
    gate = Gate(top_k=1, scoring=Scoring.SIGMOID)
    allowed = torch.tensor([[True, False, True]])
    routed = Router(gate, 3, TIES).route(
        torch.zeros(1, 3), bias_E=torch.tensor([-5.0, 7.0, -6.0]), allowed_TE=allowed
    )
    assert routed.experts_TK.tolist() == [[0]]
    assert routed.weights_TK.tolist() == [[0.5]]  # the share, without the bias


def test_a_mask_is_applied_before_the_softmax() -> None:
    router = Router(Gate(top_k=1), 3, TIES)
    scores, allowed = torch.tensor([[0.0, 9.0, 0.0]]), torch.tensor([[True, False, True]])
    assert router.route(scores, allowed_TE=allowed).weights_TK.tolist() == [[0.5]]


def test_a_group_with_one_allowed_expert_can_be_chosen() -> None:
    gate = Gate(top_k=1, groups=2, top_k_groups=1, **V3)
    allowed = torch.tensor([[True, False, False, False]])
    routed = Router(gate, 4, TIES).route(torch.zeros(1, 4), allowed_TE=allowed)
    assert routed.experts_TK.tolist() == [[0]]


def test_fixed_point_makes_ties_of_near_scores() -> None:
    scores = torch.tensor([[0.50, 0.51, 0.52]])
    first = best([0.5, 0.5, 0.5], Level.EXPERT, 1)
    router = Router(Gate(top_k=1, fixed_point_bits=2), 3, TIES)
    assert router.route(scores).experts_TK[0].tolist() == first
    assert Router(Gate(top_k=1), 3, TIES).route(scores).experts_TK.tolist() == [[2]]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_no_numbers_are_refused_with_their_rows(value: float) -> None:
    scores_TE = torch.zeros(6, 4)
    scores_TE[2, 1] = scores_TE[5, 3] = value
    with pytest.raises(ScoresNotFinite, match="layer 4 scored row 2, 5 with NaN or inf") as caught:
        Router(Gate(top_k=1), 4, TIES).route(scores_TE)
    assert caught.value.rows == (2, 5)


@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize("gate", [Gate(top_k=2), Gate(top_k=2, groups=3, top_k_groups=2)])
def test_too_few_allowed_experts_are_refused_with_their_rows(gate: Gate, left: int) -> None:
    allowed_TE = torch.ones(3, 6, dtype=torch.bool)
    allowed_TE[1] = torch.arange(6) < left
    with pytest.raises(TooFewExperts, match=f"needs 2 .* row 1, but only {left} are") as caught:
        Router(gate, 6, TIES).route(torch.zeros(3, 6), allowed_TE=allowed_TE)
    assert caught.value.rows == (1,)


@pytest.mark.parametrize(
    "gate",
    [Gate(top_k=7), Gate(top_k=3, groups=3), Gate(top_k=1, groups=4), Gate(top_k=4, groups=3)],
)
def test_a_gate_that_wants_more_than_there_is_is_refused(gate: Gate) -> None:
    with pytest.raises(InvalidSettings, match="of 6 experts"):
        Router(gate, 6, TIES)


def test_more_experts_than_a_group_has_come_from_several() -> None:
    scores_TE = torch.tensor([[9.0, 8.0, 1.0, 2.0, 4.0, 3.0]])
    gate = Gate(top_k=3, groups=3, top_k_groups=2)
    assert Router(gate, 6, TIES).route(scores_TE).experts_TK.tolist() == [[0, 1, 4]]
