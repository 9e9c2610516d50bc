"""The experts of a layer that are all in memory: packed, multiplied, summed.

Legend: T tokens, D hidden, F inner size of an expert, S packed rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lite_llm.experts.activity import Activity
from lite_llm.experts.packing import packing_of
from lite_llm.experts.routing import Routed
from lite_llm.kernels import grouped_linear

Gating = Callable[[Tensor, Tensor], Tensor]
"""From gate and up, ``[S, F]`` each, to what the third matrix takes."""


@dataclass(frozen=True)
class Matrix:
    """One of an expert's products: rows of outputs over columns of inputs."""

    weight_NK: Tensor
    bias_N: Tensor | None = None


@dataclass(frozen=True)
class ExpertWeights:
    """``down(gating(gate(x), up(x)))``."""

    gate: Matrix
    up: Matrix
    down: Matrix


class LayerExperts:
    """One layer's experts, by number."""

    def __init__(self, layer: int, experts: Sequence[ExpertWeights], gating: Gating) -> None:
        self.layer = layer
        self.activity: Activity | None = None
        """Counts what runs, if it is there."""
        self._experts = experts
        self._gating = gating

    def __len__(self) -> int:
        return len(self._experts)

    def __call__(self, x_TD: Tensor, routed: Routed) -> Tensor:
        """The weighted sum of each token's experts: ``[T, D]`` in x's dtype."""
        packing = packing_of(routed)
        if self.activity is not None:
            self.activity.record(self.layer, packing)
        experts = [self._experts[number] for number in packing.experts]
        x_SD = packing.pack(x_TD)
        inner_SF = self._gating(
            _product(x_SD, packing.counts, [expert.gate for expert in experts]),
            _product(x_SD, packing.counts, [expert.up for expert in experts]),
        )
        out_SD = _product(inner_SF, packing.counts, [expert.down for expert in experts])
        return packing.combine(out_SD, routed.weights_TK, x_TD.dtype)


def _product(x_SK: Tensor, counts: Sequence[int], matrices: Sequence[Matrix]) -> Tensor:
    biases = [matrix.bias_N for matrix in matrices if matrix.bias_N is not None]
    weights = [matrix.weight_NK for matrix in matrices]
    return grouped_linear(x_SK, weights, counts, biases or None)
