"""A layer's experts at work: rows packed, multiplied, summed.

Legend: T tokens, D hidden, F inner size of an expert, S packed rows; W of them in a wave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lite_llm.experts.bank import Bank, ExpertWeights, Matrix, NotThere
from lite_llm.experts.missing import lost_rows
from lite_llm.experts.packing import Packing, packing_of
from lite_llm.experts.routing import Routed
from lite_llm.kernels import grouped_linear

Gating = Callable[[Tensor, Tensor], Tensor]
"""From gate and up, ``[S, F]`` each, to what the third matrix takes."""

Observer = Callable[[int, Routed, Packing], None]
"""Told of each step that a layer makes: the layer's number and who went to which expert."""


class LayerExperts:
    """One layer's experts, by number.

    They run in waves, in whatever order they can be had. A row's products depend on that row and
    the weights alone, and sums are taken at the end in ascending order of experts: so that order
    moves no bit.
    """

    def __init__(self, layer: int, bank: Bank, gating: Gating) -> None:
        self.layer = layer
        self.observers: list[Observer] = []
        self.ahead: Callable[[Tensor], None] | None = None
        """Told the layer's input when its own experts are on their way: to fetch the next's."""
        self._bank = bank
        self._gating = gating

    def __len__(self) -> int:
        return len(self._bank)

    def __call__(self, x_TD: Tensor, routed: Routed) -> Tensor:
        """The weighted sum of each token's experts: ``[T, D]`` in x's dtype.

        Raises :class:`ExpertCorrupt` or :class:`ExpertAway` with the rows that an expert is
        missing for.
        """
        packing = packing_of(routed)
        for observe in self.observers:
            observe(self.layer, routed, packing)
        lost = None
        try:
            out_SD = self._in_waves(x_TD, packing)
        except NotThere as error:
            lost = error.errors
        if lost is not None:  # raised out here, as that one's frames keep slots alive
            raise lost_rows(self.layer, packing, lost)
        return packing.combine(out_SD, routed.weights_TK, x_TD.dtype)

    def _in_waves(self, x_TD: Tensor, packing: Packing) -> Tensor:
        x_SD = packing.pack(x_TD)
        out_SD: Tensor | None = None
        waves = self._bank.bring(packing)
        try:
            for number, wave in enumerate(waves):
                if number == 0 and self.ahead is not None:
                    self.ahead(x_TD)
                if wave.places is None:
                    return self._run(x_SD, packing.counts, wave.weights)
                if out_SD is None:
                    out_SD = torch.empty_like(x_SD)
                if wave.places:
                    counts = [packing.counts[place] for place in wave.places]
                    rows_W = packing.rows_of(wave.places)
                    out_SD[rows_W] = self._run(x_SD[rows_W], counts, wave.weights)
        finally:
            waves.close()
        assert out_SD is not None, "a bank has at least one wave"
        return out_SD

    def _run(self, x_SD: Tensor, counts: Sequence[int], experts: Sequence[ExpertWeights]) -> Tensor:
        inner_SF = self._gating(
            _product(x_SD, counts, [expert.gate for expert in experts]),
            _product(x_SD, counts, [expert.up for expert in experts]),
        )
        return _product(inner_SF, counts, [expert.down for expert in experts])


def _product(x_SK: Tensor, counts: Sequence[int], matrices: Sequence[Matrix]) -> Tensor:
    biases = [matrix.bias_N for matrix in matrices if matrix.bias_N is not None]
    weights = [matrix.weight_NK for matrix in matrices]
    return grouped_linear(x_SK, weights, counts, biases or None)
