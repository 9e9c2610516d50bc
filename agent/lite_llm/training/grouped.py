"""A layer's experts over rows sorted by expert, with their gradients: gathers and products only.

Scattering sums would leave their order to threads; here each row is read back from where it lies.
Legend: T rows, D hidden, K slots of a row, S = T * K slots sorted by expert, E experts, F inner.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def run_experts(
    x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor, inner_EID: Tensor, down_EDF: Tensor
) -> Tensor:
    """``[T, D]``: the sum of weight times ``down(silu(gate(x)) * up(x))`` over a row's experts.

    ``experts_TK`` has -1 in empty slots. ``inner_EID`` holds gate and up, one behind the other:
    ``[E, 2 F, D]``. Gradients flow to the rows, the weights and the experts.
    """
    return _Experts.apply(x_TD, experts_TK, weights_TK, inner_EID, down_EDF)  # type: ignore[no-any-return, no-untyped-call]  # torch's own


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        experts_TK: Tensor,
        weights_TK: Tensor,
        inner_EID: Tensor,
        down_EDF: Tensor,
    ) -> Tensor:
        slots, experts = experts_TK.shape[1], len(inner_EID)
        key_S = torch.where(experts_TK < 0, experts, experts_TK).flatten()
        order_S = key_S.argsort(stable=True)
        counts = torch.bincount(key_S, minlength=experts + 1).cumsum(0).tolist()
        segments = list(pairwise([0, *counts[:experts]]))
        place_S = torch.empty_like(order_S)
        place_S[order_S] = torch.arange(len(order_S))
        used = segments[-1][1]

        x_SD = x_TD[order_S[:used] // slots]
        inner_SI = x_SD.new_empty(used, inner_EID.shape[1])
        for (begin, end), inner_ID in zip(segments, inner_EID, strict=True):
            torch.mm(x_SD[begin:end], inner_ID.T, out=inner_SI[begin:end])
        gate_SF, up_SF = inner_SI.chunk(2, dim=1)
        hidden_SF = functional.silu(gate_SF) * up_SF
        y_SD = x_SD.new_zeros(len(order_S), x_TD.shape[1])
        for (begin, end), down_DF in zip(segments, down_EDF, strict=True):
            torch.mm(hidden_SF[begin:end], down_DF.T, out=y_SD[begin:end])
        y_TKD = y_SD[place_S].view(*experts_TK.shape, -1)
        ctx.save_for_backward(
            x_SD, inner_SI, hidden_SF, y_TKD, weights_TK, order_S, place_S, inner_EID, down_EDF
        )
        ctx.segments = segments
        return torch.einsum("tkd,tk->td", y_TKD, weights_TK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_SD, inner_SI, hidden_SF, y_TKD, weights_TK, order_S, place_S, inner_EID, down_EDF = (
            ctx.saved_tensors
        )
        slots, used = weights_TK.shape[1], len(x_SD)
        dweights_TK = torch.einsum("tkd,td->tk", y_TKD, dy_TD)
        row_S = order_S[:used] // slots
        dy_SD = dy_TD[row_S] * weights_TK.flatten()[order_S[:used], None]

        dhidden_SF = torch.empty_like(hidden_SF)
        ddown_EDF = torch.zeros_like(down_EDF)
        for expert, (begin, end) in enumerate(ctx.segments):
            if begin < end:
                torch.mm(dy_SD[begin:end], down_EDF[expert], out=dhidden_SF[begin:end])
                torch.mm(dy_SD[begin:end].T, hidden_SF[begin:end], out=ddown_EDF[expert])
        gate_SF, up_SF = inner_SI.chunk(2, dim=1)
        share_SF = gate_SF.sigmoid()
        swish_SF = gate_SF * share_SF
        dgate_SF = dhidden_SF * up_SF * (share_SF + swish_SF * (1 - share_SF))
        dinner_SI = torch.cat((dgate_SF, dhidden_SF * swish_SF), dim=1)

        dx_SD = x_SD.new_zeros(len(order_S), x_SD.shape[1])
        dinner_EID = torch.zeros_like(inner_EID)
        for expert, (begin, end) in enumerate(ctx.segments):
            if begin < end:
                torch.mm(dinner_SI[begin:end], inner_EID[expert], out=dx_SD[begin:end])
                torch.mm(dinner_SI[begin:end].T, x_SD[begin:end], out=dinner_EID[expert])
        dx_TD = dx_SD[place_S].view(*weights_TK.shape, -1).sum(1)
        return dx_TD, None, dweights_TK, dinner_EID, ddown_EDF
