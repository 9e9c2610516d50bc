"""Rows of a step sorted by expert, and their way back (SPEC-044).

Legend: T tokens, K experts a token, S packed rows: one for each token and each of its experts,
by (expert, token); D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from lite_llm.experts.routing import Routed


@dataclass(frozen=True)
class Packing:
    """Where each packed row came from. Experts without a token do not appear."""

    experts: tuple[int, ...]
    """Ascending: launches are as many as these."""
    counts: tuple[int, ...]
    """Packed rows of each of ``experts``, one segment behind the other."""
    tokens_S: Tensor
    """int64; ascending within a segment."""
    places_TK: Tensor
    """int64: the packed row of each token's k-th expert, -1 where it has none."""

    def pack(self, x_TD: Tensor) -> Tensor:
        """Each expert's tokens in one segment: ``[S, D]``."""
        return x_TD[self.tokens_S]

    def rows_of(self, places: Sequence[int]) -> Tensor:
        """Packed rows of some of the experts, by their places in ``experts``: int64."""
        ends = list(accumulate(self.counts))
        return torch.tensor(
            [row for at in places for row in range(ends[at] - self.counts[at], ends[at])],
            dtype=torch.int64,
            device=self.tokens_S.device,
        )

    def combine(self, out_SD: Tensor, weights_TK: Tensor, dtype: torch.dtype) -> Tensor:
        """Weighted sum of each token's experts: ``[T, D]`` in ``dtype``.

        Products and sums are float32, in ascending order of experts, each rounded by itself; one
        cast ends them. (transformers casts every product and every sum to the model's dtype.)
        """
        if len(self.tokens_S) < self.places_TK.numel():
            out_SD = functional.pad(out_SD, (0, 0, 0, 1))  # a last row of zeros, for places of -1
        parts_TKD = out_SD[self.places_TK].float() * weights_TK[..., None]
        # From zero on, so that an absent expert's zero behind the others changes no bit of a sum.
        sum_TD = parts_TKD.new_zeros(parts_TKD.shape[0], parts_TKD.shape[2])
        for part_TD in parts_TKD.unbind(1):
            sum_TD += part_TD
        return sum_TD.to(dtype)


def packing_of(routed: Routed) -> Packing:
    """The packing of a step's routing."""
    num_tokens, top_k = routed.experts_TK.shape
    experts_F = routed.experts_TK.flatten()
    if num_tokens == 1 and routed.complete:  # its experts ascend already, which saves most of this
        tokens_S = torch.zeros_like(experts_F)
        places_TK = torch.arange(top_k, device=experts_F.device)[None]
        return Packing(tuple(experts_F.tolist()), (1,) * top_k, tokens_S, places_TK)
    order_S = experts_F.argsort(stable=True)  # tokens ascend in it, and so within each expert
    if not routed.complete:
        order_S = order_S[int((experts_F < 0).sum()) :]
    experts, counts = torch.unique_consecutive(experts_F[order_S], return_counts=True)
    places_F = torch.full_like(experts_F, -1)
    places_F[order_S] = torch.arange(len(order_S), device=experts_F.device)
    return Packing(
        experts=tuple(experts.tolist()),
        counts=tuple(counts.tolist()),
        tokens_S=order_S // top_k,
        places_TK=places_F.view(-1, top_k),
    )
