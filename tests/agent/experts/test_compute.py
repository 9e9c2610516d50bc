"""A step's experts against one token after the other."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lite_llm.experts import Expert, Gate, Router, Ties, packing_of, run_experts

DIM, INNER, EXPERTS = 12, 20, 6


def some_experts(*, biased: bool) -> list[Expert]:
    random = torch.Generator().manual_seed(1)

    def tensor(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    return [
        Expert(
            gate_FD=tensor(INNER, DIM),
            up_FD=tensor(INNER, DIM),
            down_DF=tensor(DIM, INNER),
            gate_bias_F=tensor(INNER) if biased else None,
            up_bias_F=tensor(INNER) if biased else None,
            down_bias_D=tensor(DIM) if biased else None,
        )
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
    packing = packing_of(routed)
    assert 4 not in packing.experts
    used = [experts[number] for number in packing.experts]
    y_TD = run_experts(x_TD, routed, packing, used, gating)
    for token, x_D in enumerate(x_TD):
        sum_D = torch.zeros(DIM)
        for number, weight in zip(routed.experts_TK[token], routed.weights_TK[token], strict=True):
            one = experts[int(number)]
            gate_F = functional.linear(x_D, one.gate_FD, one.gate_bias_F)
            up_F = functional.linear(x_D, one.up_FD, one.up_bias_F)
            sum_D += weight * functional.linear(gating(gate_F, up_F), one.down_DF, one.down_bias_D)
        torch.testing.assert_close(y_TD[token], sum_D, atol=1e-4, rtol=1e-5)
