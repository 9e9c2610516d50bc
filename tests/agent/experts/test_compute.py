"""A layer's experts against one token after the other."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lite_llm.experts import (
    Activity,
    ExpertWeights,
    Gate,
    LayerExperts,
    Matrix,
    ResidentBank,
    Router,
    Ties,
)

DIM, INNER, EXPERTS = 12, 20, 6


def some_experts(*, biased: bool) -> list[ExpertWeights]:
    random = torch.Generator().manual_seed(1)

    def matrix(outputs: int, inputs: int) -> Matrix:
        bias_N = torch.randn(outputs, generator=random) if biased else None
        return Matrix(torch.randn(outputs, inputs, generator=random), bias_N)

    return [
        ExpertWeights(gate=matrix(INNER, DIM), up=matrix(INNER, DIM), down=matrix(DIM, INNER))
        for _ in range(EXPERTS)
    ]


def gating(gate_SF: Tensor, up_SF: Tensor) -> Tensor:
    return gate_SF.relu() * up_SF


@pytest.mark.parametrize("biased", [False, True])
def test_against_one_token_after_the_other(biased: bool) -> None:
    experts = some_experts(biased=biased)
    x_TD = torch.randn(9, DIM, generator=torch.Generator().manual_seed(2))
    scores_TE = torch.randn(9, EXPERTS, generator=torch.Generator().manual_seed(3))
    scores_TE[:, 4] = -99.0  # an expert without tokens
    routed = Router(Gate(top_k=2), EXPERTS, Ties.of_layer(0)).route(scores_TE)
    layer = LayerExperts(7, ResidentBank(experts), gating)
    activity = Activity({7: EXPERTS})
    layer.observers.append(activity.record)
    y_TD = layer(x_TD, routed)
    counts = activity.counts[7]
    assert counts == routed.experts_TK.flatten().bincount(minlength=EXPERTS).tolist()
    assert counts[4] == 0

    def product(x_K: Tensor, matrix: Matrix) -> Tensor:
        return functional.linear(x_K, matrix.weight_NK, matrix.bias_N)

    for token, x_D in enumerate(x_TD):
        sum_D = torch.zeros(DIM)
        for number, weight in zip(routed.experts_TK[token], routed.weights_TK[token], strict=True):
            one = experts[int(number)]
            inner_F = gating(product(x_D, one.gate), product(x_D, one.up))
            sum_D += weight * product(inner_F, one.down)
        torch.testing.assert_close(y_TD[token], sum_D, atol=1e-4, rtol=1e-5)
