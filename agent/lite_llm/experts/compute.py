"""A step's experts, computed: packed, multiplied, summed.

Legend: T tokens, D hidden, F inner size of an expert, S packed rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lite_llm.experts.packing import Packing
from lite_llm.experts.routing import Routed
from lite_llm.kernels import grouped_linear

Gating = Callable[[Tensor, Tensor], Tensor]
"""From gate and up, ``[S, F]`` each, to what the third matrix takes."""


@dataclass(frozen=True)
class Expert:
    """One expert's weights, rows of outputs over columns of inputs; biases all or none."""

    gate_FD: Tensor
    up_FD: Tensor
    down_DF: Tensor
    gate_bias_F: Tensor | None = None
    up_bias_F: Tensor | None = None
    down_bias_D: Tensor | None = None


def run_experts(
    x_TD: Tensor, routed: Routed, packing: Packing, experts: Sequence[Expert], gating: Gating
) -> Tensor:
    """The weighted sum of each token's experts: ``[T, D]`` in x's dtype.

    ``experts`` are those of ``packing.experts``, in its order.
    """
    x_SD = packing.pack(x_TD)
    gate_SF = _product(
        x_SD, packing, [one.gate_FD for one in experts], [one.gate_bias_F for one in experts]
    )
    up_SF = _product(
        x_SD, packing, [one.up_FD for one in experts], [one.up_bias_F for one in experts]
    )
    out_SD = _product(
        gating(gate_SF, up_SF),
        packing,
        [one.down_DF for one in experts],
        [one.down_bias_D for one in experts],
    )
    return packing.combine(out_SD, routed.weights_TK, x_TD.dtype)


def _product(
    x_SK: Tensor, packing: Packing, weights: Sequence[Tensor], biases: Sequence[Tensor | None]
) -> Tensor:
    given = [bias for bias in biases if bias is not None]
    return grouped_linear(x_SK, weights, packing.counts, given or None)
