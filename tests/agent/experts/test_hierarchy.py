"""Tiers, groups and experts against a plain statement of the rule."""

import pytest
import torch
from torch import Tensor

from lite_llm.experts import (
    Level,
    Routed,
    ScoresNotFinite,
    TieredGate,
    TieredRouter,
    TierGate,
    Ties,
    TooFewExperts,
)

TIES = Ties.of_layer(2, routing_seed=5)
NEAR = TierGate(groups=2, experts_per_group=4, top_k_groups=1, top_k_experts=2)
FAR = TierGate(groups=4, experts_per_group=3, top_k_groups=2, top_k_experts=1)
LAST = TierGate(groups=1, experts_per_group=5, top_k_groups=1, top_k_experts=5)
TIERS = (NEAR, FAR, LAST)


def some_scores(rows: int, seed: int, *, step: float = 0.0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    scores = [2 * torch.randn(rows, tier.num_scores, generator=random) for tier in TIERS]
    return [(one / step).round() * step for one in scores] if step else scores


def best(scores: Tensor, precedence: list[int], k: int) -> list[int]:
    keys = scores.tolist()
    return sorted(range(len(keys)), key=lambda number: (-keys[number], -precedence[number]))[:k]


def expected(gate: TieredGate, scores: list[Tensor], allowed: Tensor) -> dict[int, float]:
    """One row's experts with their weights."""
    tiers = torch.stack([one[0] for one in scores]).masked_fill(~allowed, -torch.inf)
    tier_precedence = TIES.precedence(Level.TIER, len(gate.tiers)).tolist()
    group_precedence = TIES.precedence(
        Level.GROUP, sum(tier.groups for tier in gate.tiers)
    ).tolist()
    expert_precedence = TIES.precedence(
        Level.EXPERT, sum(tier.experts for tier in gate.tiers)
    ).tolist()
    chosen = best(tiers, tier_precedence, min(gate.top_k_tiers, int(allowed.sum())))
    weights, first_group, first_expert = {}, 0, 0
    for number, tier in enumerate(gate.tiers):
        groups = scores[number][1 : 1 + tier.groups].double()
        experts = scores[number][1 + tier.groups :].view(tier.groups, -1).double()
        for group in best(groups, group_precedence[first_group:], tier.top_k_groups):
            first = first_expert + group * tier.experts_per_group
            for expert in best(experts[group], expert_precedence[first:], tier.top_k_experts):
                share = tiers.double().softmax(0)[number] * groups.softmax(0)[group]
                weight = share * experts[group].softmax(0)[expert]
                if number in chosen:
                    weights[first + expert] = float(weight)
        first_group, first_expert = first_group + tier.groups, first_expert + tier.experts
    total = sum(weights.values()) if gate.normalized else 1.0
    return {expert: weights[expert] / total for expert in sorted(weights)}


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("top_k_tiers", [1, 2, 3])
@pytest.mark.parametrize("step", [0.0, 2.0])
def test_against_the_rule(top_k_tiers: int, step: float, normalized: bool) -> None:
    gate = TieredGate(tiers=TIERS, top_k_tiers=top_k_tiers, normalized=normalized)
    scores = some_scores(40, 1, step=step)
    allowed_TI = torch.rand(40, 3, generator=torch.Generator().manual_seed(2)) < 0.6
    allowed_TI[:, 1] |= ~allowed_TI.any(1)
    routed = TieredRouter(gate, TIES).route(scores, allowed_TI=allowed_TI)
    assert routed.experts_TK.shape == (40, gate.slots)
    for row in range(40):
        weights = expected(gate, [one[row] for one in scores], allowed_TI[row])
        absent = gate.slots - len(weights)
        assert routed.experts_TK[row].tolist() == [*weights, *[-1] * absent]
        wanted_K = torch.tensor([*weights.values(), *[0.0] * absent])
        torch.testing.assert_close(routed.weights_TK[row], wanted_K, atol=1e-6, rtol=1e-5)


def test_no_token_uses_more_experts_than_its_tiers_have_active() -> None:
    assert [TieredGate(tiers=TIERS, top_k_tiers=k).slots for k in (1, 2, 3)] == [5, 7, 9]


def equal(left: Routed, right: Routed) -> bool:
    slots = left.experts_TK.shape[1]
    return (
        torch.equal(left.experts_TK, right.experts_TK[:, :slots])
        and torch.equal(left.weights_TK, right.weights_TK[:, :slots])
        and bool((right.experts_TK[:, slots:] == -1).all())
    )


@pytest.mark.parametrize("normalized", [False, True])
def test_a_tier_that_is_added_changes_no_bit_of_the_others(normalized: bool) -> None:
    scores = some_scores(50, 3, step=0.5)
    old = TieredGate(tiers=TIERS[:2], top_k_tiers=2, normalized=normalized)
    new = TieredGate(tiers=TIERS, top_k_tiers=2, normalized=normalized)
    before = TieredRouter(old, TIES).route(scores[:2])
    allowed_TI = torch.tensor([[True, True, False]]).expand(50, 3)
    router = TieredRouter(new, TIES)
    assert equal(before, router.route([*scores[:2], None], allowed_TI=allowed_TI))
    assert equal(before, router.route(scores, allowed_TI=allowed_TI))
    assert not equal(before, router.route(scores))


def test_a_row_does_not_know_its_batch() -> None:
    scores = some_scores(90, 4, step=0.25)
    router = TieredRouter(TieredGate(tiers=TIERS, top_k_tiers=2), TIES)
    whole = router.route(scores)
    for begin, end in ((0, 1), (5, 38), (89, 90)):
        part = router.route([one[begin:end] for one in scores])
        assert torch.equal(part.experts_TK, whole.experts_TK[begin:end])
        assert torch.equal(part.weights_TK, whole.weights_TK[begin:end])


def test_a_row_without_a_tier_is_named() -> None:
    allowed_TI = torch.tensor([[True, True, True], [False, False, False]])
    router = TieredRouter(TieredGate(tiers=TIERS, top_k_tiers=2), TIES)
    with pytest.raises(TooFewExperts, match="needs 1 tier for row 1, but only 0 are") as caught:
        router.route(some_scores(2, 5), allowed_TI=allowed_TI)
    assert caught.value.rows == (1,)


def test_scores_that_are_no_numbers_are_named() -> None:
    scores = some_scores(4, 6)
    scores[1][3, 2] = torch.nan
    with pytest.raises(ScoresNotFinite) as caught:
        TieredRouter(TieredGate(tiers=TIERS), TIES).route(scores)
    assert caught.value.rows == (3,)
