"""Grouped experts beside one token and one expert after the other, values and gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lite_llm.training.grouped import run_experts

ROWS, HIDDEN, EXPERTS, SLOTS, INNER = 9, 5, 4, 3, 6


def plain(
    x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor, inner_EID: Tensor, down_EDF: Tensor
) -> Tensor:
    rows = []
    for x_D, chosen, weights in zip(x_TD, experts_TK.tolist(), weights_TK, strict=True):
        y_D = torch.zeros_like(x_D)
        for expert, weight in zip(chosen, weights, strict=True):
            if expert >= 0:
                gate_F, up_F = (inner_EID[expert] @ x_D).chunk(2)
                y_D = y_D + weight * (down_EDF[expert] @ (functional.silu(gate_F) * up_F))
        rows.append(y_D)
    return torch.stack(rows)


@pytest.mark.parametrize("used", [range(EXPERTS), range(2), [2]], ids=["all", "some", "one"])
def test_values_and_gradients_are_those_of_the_plain_sum(used: list[int]) -> None:
    random = torch.Generator().manual_seed(0)

    def leaf(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=random, dtype=torch.float64).requires_grad_()

    listed = torch.tensor([*used, *[-1] * SLOTS])
    experts_TK = torch.stack(
        [listed[torch.randperm(len(listed), generator=random)[:SLOTS]] for _ in range(ROWS)]
    )
    inputs = leaf(ROWS, HIDDEN), leaf(ROWS, SLOTS)
    weights = leaf(EXPERTS, 2 * INNER, HIDDEN), leaf(EXPERTS, HIDDEN, INNER)
    x_TD, weights_TK = inputs
    ours_TD = run_experts(x_TD, experts_TK, weights_TK, *weights)
    theirs_TD = plain(x_TD, experts_TK, weights_TK, *weights)
    torch.testing.assert_close(ours_TD, theirs_TD)
    direction_TD = torch.randn(ours_TD.shape, generator=random, dtype=torch.float64)
    ours = torch.autograd.grad((ours_TD * direction_TD).sum(), [*inputs, *weights])
    theirs = torch.autograd.grad((theirs_TD * direction_TD).sum(), [*inputs, *weights])
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their)


def test_rows_without_an_expert_are_zero() -> None:
    experts_TK = torch.full((ROWS, SLOTS), -1)
    y_TD = run_experts(
        torch.ones(ROWS, HIDDEN),
        experts_TK,
        torch.zeros(ROWS, SLOTS),
        torch.ones(EXPERTS, 2 * INNER, HIDDEN),
        torch.ones(EXPERTS, HIDDEN, INNER),
    )
    assert not y_TD.any()
