"""Seeded order among equal scores (SPEC-003): the same on every machine, whatever the batch.

Legend: E candidates (experts, groups or tiers).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import torch
import xxhash
from torch import Tensor

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.contracts.tiers import SEED_BITS

RANK_BITS: Final = 20
"""Bits of a key behind the score's; so many candidates a gate may have at most, as a power of 2."""


class Level(IntEnum):
    """What a gate chooses from: part of the hash, so that levels don't share an order."""

    EXPERT = 0
    GROUP = 1
    TIER = 2


@dataclass(frozen=True)
class Ties:
    """The order of one layer's candidates where their scores are equal."""

    layer: int
    seed: int
    """Of the layer, 64 bits."""

    @classmethod
    def of_layer(cls, layer: int, routing_seed: int = 0) -> Ties:
        """``routing_seed``: the model's, an unsigned number of 128 bits."""
        if not 0 <= routing_seed < 1 << SEED_BITS:
            raise InvalidSettings(
                f"routing seed {routing_seed} is out of range",
                where="routing_seed",
                remedy=f"give an unsigned {SEED_BITS}-bit number",
            )
        words = routing_seed.to_bytes(SEED_BITS // 8, "little") + layer.to_bytes(8, "little")
        return cls(layer, xxhash.xxh64_intdigest(words))

    def ranks(self, level: Level, count: int) -> Tensor:
        """Of each candidate its place in the order by (hash, number): ``[E]``, int64.

        Candidates that are added at the end don't change the order of those before them.
        """
        if count > 1 << RANK_BITS:
            raise InvalidSettings(
                f"layer {self.layer} has {count} candidates in one gate",
                where="experts",
                remedy=f"split them: a gate chooses from at most {1 << RANK_BITS}",
            )
        order = sorted(range(count), key=lambda number: (self._hash(level, number), number))
        ranks_E = torch.empty(count, dtype=torch.int64)
        ranks_E[torch.tensor(order, dtype=torch.int64)] = torch.arange(count)
        return ranks_E

    def _hash(self, level: Level, number: int) -> int:
        words = level.to_bytes(4, "little") + number.to_bytes(8, "little")
        return xxhash.xxh64_intdigest(words, seed=self.seed)
