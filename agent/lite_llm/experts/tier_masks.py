"""A request's tiers as masks over the experts of each layer. Legend: T rows, E experts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import torch
from torch import Tensor

from lite_llm.contracts.errors import Unsupported
from lite_llm.contracts.manifest import ExpertRecord

MAX_TIERS: Final = 63
"""A row's tiers are bits of one signed word."""

_ALL: Final = -1


class TierMasks:
    """Which experts belong to which tier, in every layer of a checkpoint."""

    def __init__(self, experts: Iterable[ExpertRecord], num_layers: int) -> None:
        """``experts`` are the manifest's. Raises :class:`Unsupported` for too many tiers."""
        tier_by_row: defaultdict[int, dict[int, int]] = defaultdict(dict)
        for expert in experts:
            if expert.key.tier >= MAX_TIERS:
                raise Unsupported(
                    f"expert {expert.key} lies beyond {MAX_TIERS} tiers",
                    where="tiers",
                    remedy=f"draw at most {MAX_TIERS}",
                )
            tier_by_row[expert.key.layer][expert.router_row] = expert.key.tier
        self._tiers = [
            torch.tensor([tier for _, tier in sorted(tier_by_row[layer].items())])
            for layer in range(num_layers)
        ]

    def of(self, tiers_T: Sequence[Collection[int] | None]) -> list[Tensor | None] | None:
        """For each layer what each row may use, bool ``[T, E]``; None where it has no experts.

        ``tiers_T`` are each row's tiers by id, None for all; if all are, the answer is None.
        """
        words = [_ALL if tiers is None else sum(1 << tier for tier in tiers) for tiers in tiers_T]
        if all(word == _ALL for word in words):
            return None
        words_T1 = torch.tensor(words, dtype=torch.int64)[:, None]
        return [
            (words_T1 >> tiers_E & 1).bool() if len(tiers_E) else None for tiers_E in self._tiers
        ]
