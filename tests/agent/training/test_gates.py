"""The gates that learn choose as the router that serves, and are told when they are uneven."""

import math

import torch
from torch import Tensor

from lite_llm.experts import TieredRouter, Ties
from lite_llm.training import Shape
from lite_llm.training.gates import choose

ROWS = 64


def scored(shape: Shape, scale: float = 1.0) -> Tensor:
    width = sum(tier.num_scores for tier in shape.gate.tiers)
    return torch.randn(ROWS, width, generator=torch.Generator().manual_seed(4)) * scale


def test_the_choice_is_the_serving_routers(shape: Shape) -> None:
    tiers = shape.gate.tiers
    scores_TS = scored(shape)
    allowed_TI = torch.rand(ROWS, len(tiers), generator=torch.Generator().manual_seed(5)) < 0.6
    allowed_TI[:, 1] |= ~allowed_TI.any(1)
    gated = choose(scores_TS, shape.gate, allowed_TI)
    parts = list(torch.split(scores_TS, [tier.num_scores for tier in tiers], dim=1))
    routed = TieredRouter(shape.gate, Ties.of_layer(0)).route(parts, allowed_TI=allowed_TI)
    for row in range(ROWS):
        ours = {
            expert: weight
            for expert, weight in zip(
                gated.experts_TK[row].tolist(), gated.weights_TK[row].tolist(), strict=True
            )
            if expert >= 0
        }
        theirs = {
            expert: weight
            for expert, weight in zip(
                routed.experts_TK[row].tolist(), routed.weights_TK[row].tolist(), strict=True
            )
            if expert >= 0
        }
        assert ours.keys() == theirs.keys()
        assert all(math.isclose(ours[e], theirs[e], abs_tol=1e-6) for e in ours)


def test_balance_is_nothing_where_all_are_used_alike_and_large_where_one_is(shape: Shape) -> None:
    everything = torch.ones(ROWS, len(shape.gate.tiers), dtype=torch.bool)
    even = choose(scored(shape, 0.01), shape.gate, everything).balance
    scores_TS = scored(shape, 0.01)
    scores_TS[:, 0] += 9  # tier 0 is always the best, and its first expert too
    scores_TS[:, 2] += 9
    uneven = choose(scores_TS, shape.gate, everything).balance
    assert 0 <= even < 0.1
    assert uneven > even + 0.1


def test_the_balance_loss_pushes_towards_what_is_used_less(shape: Shape) -> None:
    everything = torch.ones(ROWS, len(shape.gate.tiers), dtype=torch.bool)
    scores_TS = scored(shape)
    scores_TS[:, 2] += 2  # tier 0's first expert is liked too well
    scores_TS.requires_grad_()
    choose(scores_TS, shape.gate, everything).balance.backward()  # type: ignore[no-untyped-call]  # torch's own
    assert scores_TS.grad is not None
    liked, others = scores_TS.grad[:, 2].sum(), scores_TS.grad[:, 3:5].sum()
    assert liked > 0 > others
