"""Which expert is worth its slot: rules over what was used when, pure and vectorised.

A rule gives every expert that it is asked about a number; the least worth leaves first, and among
equals a seeded order decides. No rule sees a clock: time is counted in demands (ticks).

Legend: N experts of all layers, in the order of their keys; C of them that are asked about;
L layers that have experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.experts.policies_odds import Odds

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class History:
    """What was demanded so far. Experts count from 0 through all layers."""

    def __init__(self, experts_of_layer_L: Sequence[int], *, learns: bool = False) -> None:
        """``experts_of_layer_L``: how many each layer has that has any; ``learns``: odds, too."""
        num = sum(experts_of_layer_L)
        ends = np.cumsum(experts_of_layer_L).tolist()
        self.slices = tuple(
            slice(end - count, end) for end, count in zip(ends, experts_of_layer_L, strict=True)
        )
        self.layer_N: Ints = np.repeat(np.arange(len(self.slices)), experts_of_layer_L)
        self.tick = 0
        """Demands so far, this one included."""
        self.layer = -1
        """That is demanded now."""
        self.last_use_N: Ints = np.zeros(num, np.int64)
        """Tick of the last use, 0 for none; by a prompt, too."""
        self.last_decode_N: Ints = np.zeros(num, np.int64)
        """Tick of the last use by decoding, 0 for none."""
        self.count_N: Ints = np.zeros(num, np.int64)
        """Uses by decoding."""
        self.uses_N: Ints = np.zeros(num, np.int64)
        """Uses by anybody."""
        self.stay_count_N: Ints = np.zeros(num, np.int64)
        """Uses since it came into the pool."""
        self.expected_N: Floats = np.zeros(num, np.float64)
        """Probability of use at the layer's next visit, as a prefetch said; 0 for nothing said."""
        self._is_expecting = False
        self.odds = Odds(self.slices) if learns else None

    def visit(self, layer: int, decode: Ints, prefill: Ints) -> None:
        """A layer demands these experts: for rows that decode, and only for rows of prompts."""
        self.tick += 1
        self.layer = layer
        if self._is_expecting:
            self.expected_N[self.slices[layer]] = 0.0
        self.uses_N[decode] += 1
        self.uses_N[prefill] += 1
        self.last_use_N[decode] = self.tick
        self.stay_count_N[decode] += 1
        if len(prefill):
            self.last_use_N[prefill] = self.tick
            self.stay_count_N[prefill] += 1
        if len(decode):
            self.count_N[decode] += 1
            self.last_decode_N[decode] = self.tick
            if self.odds is not None:
                self.odds.visit(layer, decode)

    def expect(self, experts: Ints, probability: float) -> None:
        """Their layers' next visits will use them with this probability."""
        self._is_expecting = True
        self.expected_N[experts] = probability

    def enter(self, experts: Ints) -> None:
        """They come into the pool."""
        self.stay_count_N[experts] = self.last_use_N[experts] == self.tick


Worth = Callable[[History, Ints], Floats]
"""From the history and experts ``[C]``, how much each is worth: ``[C]``."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A rule with its name."""

    name: str
    worth: Worth
    is_selective: bool = False
    """A newcomer that is worth no more than what it would replace is bypassed."""
    is_guarded: bool = True
    """If a step demands more than the pool holds, nothing leaves that was used in the last step:
    a rule that looks at recency would evict each expert just before its next use."""
    learns: bool = False
    """The rule asks for :attr:`History.odds`."""


def _lru(history: History, experts_C: Ints) -> Floats:
    last_C = history.last_use_N[experts_C]
    return last_C + history.expected_N[experts_C] * (history.tick - last_C)


def _least_stale(history: History, experts_C: Ints) -> Floats:
    # An expert that this step has used comes last of all in the next; one that it has not used
    # when it could have is stale.
    last_C = history.last_use_N[experts_C]
    num_layers = len(history.slices)
    ahead_C = (history.layer_N[experts_C] - history.layer - 1) % num_layers
    is_stale_C = history.tick - last_C > num_layers
    return np.where(is_stale_C, last_C - history.tick, num_layers - ahead_C).astype(np.float64)


def _lfu(history: History, experts_C: Ints) -> Floats:
    return history.stay_count_N[experts_C].astype(np.float64)


def _lfru(history: History, experts_C: Ints) -> Floats:
    age_C = history.tick - history.last_use_N[experts_C]
    return history.count_N[experts_C] / (1.0 + age_C / len(history.slices))


def _published(history: History, experts_C: Ints) -> Floats:
    age_C = history.tick - history.last_use_N[experts_C]
    return history.count_N[experts_C] / (1.0 + age_C)


def _nearest(history: History, experts_C: Ints) -> Floats:
    """Minus the expected time to the next use, in steps.

    The layer comes first in ``ahead`` of a step. If that visit does not use the expert, it takes
    1 / odds more of them on average.
    """
    assert history.odds is not None
    num_layers = len(history.slices)
    odds_C = history.odds.of(experts_C)
    next_C = np.maximum(odds_C, history.expected_N[experts_C])
    ahead_C = (history.layer_N[experts_C] - history.layer - 1) % num_layers + 1
    nearness_C: Floats = -(ahead_C / num_layers + (1.0 - next_C) / odds_C)
    return nearness_C


LRU: Final = Policy("lru", _lru)
"""Least recently used; what a prefetch expects counts as used, the more probable the later."""
LEAST_STALE: Final = Policy("least-stale", _least_stale)
"""What the present step could have used and did not, then what it needs last (SpecMD, 2026)."""
LFU: Final = Policy("lfu", _lfu)
"""Fewest uses since it came."""
LFRU: Final = Policy("lfru", _lfru)
"""Fewest uses in all for each step of age."""
PUBLISHED: Final = Policy("published", _published)
"""Uses / (1 + demands since the last one): SPEC-022, and SPEC-027 with equal sizes."""
NEAREST: Final = Policy("nearest", _nearest, is_selective=True, is_guarded=False, learns=True)
"""The latest expected next use leaves: Belady's rule with learned odds for the future."""

DEFAULT: Final = NEAREST

POLICIES: Final = {
    policy.name: policy for policy in (NEAREST, LRU, LEAST_STALE, LFU, LFRU, PUBLISHED)
}


def policy_named(name: str) -> Policy:
    """Raises :class:`InvalidSettings` if there is none."""
    if name not in POLICIES:
        raise InvalidSettings(
            f"there is no policy {name[:40]!r}", where="policy", remedy=f"use {', '.join(POLICIES)}"
        )
    return POLICIES[name]
