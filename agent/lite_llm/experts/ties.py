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

PRECEDENCE_BITS: Final = 20
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

    def precedence(self, level: Level, count: int, device: torch.device | None = None) -> Tensor:
        """Of each candidate a number, greatest for the one that wins ties: ``[E]``, int64.

        The order is that of (hash, number), ascending. Candidates that are added at the end don't
        change it among those before them.
        """
        if count > 1 << PRECEDENCE_BITS:
            raise InvalidSettings(
                f"layer {self.layer} has {count} candidates in one gate",
                where="experts",
                remedy=f"split them: a gate chooses from at most {1 << PRECEDENCE_BITS}",
            )
        order = sorted(range(count), key=lambda number: (self._hash(level, number), number))
        precedence_E = torch.empty(count, dtype=torch.int64)
        last = (1 << PRECEDENCE_BITS) - 1
        precedence_E[torch.tensor(order, dtype=torch.int64)] = last - torch.arange(count)
        return precedence_E.to(device)

    def _hash(self, level: Level, number: int) -> int:
        words = level.to_bytes(4, "little") + number.to_bytes(8, "little")
        return xxhash.xxh64_intdigest(words, seed=self.seed)
