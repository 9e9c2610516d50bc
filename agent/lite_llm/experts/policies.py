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

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

HEAT_DECAY: Final = 0.95
"""Per visit of a layer: heat remembers about twenty of them."""


class History:
    """What was demanded so far. Experts count from 0 through all layers."""

    def __init__(self, experts_of_layer_L: Sequence[int]) -> None:
        """``experts_of_layer_L``: how many each layer has that has any."""
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
        self.visits_L: Ints = np.zeros(len(self.slices), np.int64)
        self.last_use_N: Ints = np.zeros(num, np.int64)
        """Tick of the last use, 0 for none; by a prompt, too."""
        self.last_decode_N: Ints = np.zeros(num, np.int64)
        """Tick of the last use by decoding, 0 for none."""
        self.count_N: Ints = np.zeros(num, np.int64)
        """Uses by decoding."""
        self.stay_count_N: Ints = np.zeros(num, np.int64)
        """Uses since it came into the pool."""
        self.loaded_N: Ints = np.zeros(num, np.int64)
        """Tick at which it came into the pool, if it is there."""
        self.heat_N: Floats = np.zeros(num, np.float64)
        """Uses by decoding, each worth less with every visit of the layer."""
        self.expected_N: Floats = np.zeros(num, np.float64)
        """Probability of use at the layer's next visit, as a prefetch said; 0 for nothing said."""

    def visit(self, layer: int, decode: Ints, prefill: Ints) -> None:
        """A layer demands these experts: for rows that decode, and only for rows of prompts."""
        self.tick += 1
        self.layer = layer
        self.visits_L[layer] += 1
        own = self.slices[layer]
        self.expected_N[own] = 0.0
        self.last_use_N[decode] = self.tick
        self.stay_count_N[decode] += 1
        if len(prefill):
            self.last_use_N[prefill] = self.tick
            self.stay_count_N[prefill] += 1
        if len(decode):
            self.heat_N[own] *= HEAT_DECAY
            self.heat_N[decode] += 1.0
            self.count_N[decode] += 1
            self.last_decode_N[decode] = self.tick

    def enter(self, experts: Ints) -> None:
        """They come into the pool."""
        self.loaded_N[experts] = self.tick
        self.stay_count_N[experts] = self.last_use_N[experts] == self.tick


Worth = Callable[[History, Ints], Floats]
"""From the history and experts ``[C]``, how much each is worth: ``[C]``."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A rule with its name."""

    name: str
    worth: Worth
    is_selective: bool = False
    """A newcomer that is worth less than whatever it would replace is bypassed."""


def _lru(history: History, experts_C: Ints) -> Floats:
    last_C = history.last_use_N[experts_C]
    return last_C + history.expected_N[experts_C] * (history.tick - last_C)


LRU: Final = Policy("lru", _lru)
"""Least recently used; what a prefetch expects counts as used, the more probable the later."""
