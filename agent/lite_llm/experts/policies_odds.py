"""How probable it is that a layer's next visit uses an expert: learned from what just happened.

Experts of one bucket have been away for about as long and were used about as often of late; how
many of a bucket were used at the next visit is counted as the model runs. Nothing is assumed about
the model, and no logarithm or root is taken, so every machine counts the same.

Legend: E experts of a layer, N of all layers, B buckets.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

AGES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 254)
"""Upper ends of the buckets of visits since the last use; one more is for those beyond."""
FAST_DECAY: Final = 0.8
SLOW_DECAY: Final = 0.98
"""Per visit, of two averages of use: over about 5 of them, and over about 50."""
LEVELS: Final = 8
"""Buckets of each average."""
PRIOR_WEIGHT: Final = 8.0
"""Uses that the averages themselves count for, until a bucket has seen more."""
FORGET_AFTER: Final = 1 << 16
"""Visits, after which all counts are halved: a model's later habits weigh more."""

_NUM_BUCKETS: Final = (len(AGES) + 1) * LEVELS * LEVELS
OLDEST: Final = 255
BUCKET_OF_AGE: Final = np.array(
    [bisect_left(AGES, age) * LEVELS * LEVELS for age in range(OLDEST + 1)], np.int64
)
FINE: Final = 1024  # of the slow average, in which levels are narrower the lower they are
LEVEL_OF_SLOW: Final = np.array(
    [
        sum(fine * LEVELS * LEVELS >= level * level * FINE for level in range(1, LEVELS))
        for fine in range(FINE + 1)
    ],
    np.int64,
)


class Odds:
    """Of all experts of a model; every visit of a layer is an observation."""

    def __init__(self, slices: Sequence[slice]) -> None:
        """``slices``: which experts are each layer's."""
        num = slices[-1].stop if slices else 0
        self._slices = slices
        self.age_N: Ints = np.full(num, OLDEST, np.int64)
        self.fast_N: Floats = np.zeros(num)
        self.slow_N: Floats = np.zeros(num)
        self.bucket_N: Ints = np.full(num, BUCKET_OF_AGE[OLDEST], np.int64)
        self.seen_B: Floats = np.zeros(_NUM_BUCKETS)
        self.used_B: Floats = np.zeros(_NUM_BUCKETS)
        self._visits = 0

    def visit(self, layer: int, used: Ints) -> None:
        """The layer uses these of its experts, each once."""
        own = self._slices[layer]
        bucket_E, age_E = self.bucket_N[own], self.age_N[own]
        fast_E, slow_E = self.fast_N[own], self.slow_N[own]
        np.add.at(self.seen_B, bucket_E, 1.0)
        np.add.at(self.used_B, self.bucket_N[used], 1.0)
        if self.count_visit():
            self.seen_B *= 0.5
            self.used_B *= 0.5
        age_E += 1
        np.minimum(age_E, OLDEST, out=age_E)
        fast_E *= FAST_DECAY
        slow_E *= SLOW_DECAY
        self.age_N[used] = 1
        self.fast_N[used] += 1.0 - FAST_DECAY
        self.slow_N[used] += 1.0 - SLOW_DECAY
        np.take(BUCKET_OF_AGE, age_E, out=bucket_E)
        bucket_E += np.minimum(fast_E * LEVELS, LEVELS - 1).astype(np.int64) * LEVELS
        bucket_E += LEVEL_OF_SLOW[(slow_E * FINE).astype(np.int64)]

    def count_visit(self) -> bool:
        """One more; whether all counts are to be halved now."""
        self._visits += 1
        return self._visits % FORGET_AFTER == 0

    def of(self, experts: Ints) -> Floats:
        """Each one's probability at the next visit of its layer, above 0 and below 1."""
        bucket = self.bucket_N[experts]
        guess = 0.4 * self.fast_N[experts] + 0.6 * self.slow_N[experts]
        used = self.used_B[bucket] + PRIOR_WEIGHT * guess + 0.01
        odds: Floats = used / (self.seen_B[bucket] + PRIOR_WEIGHT + 0.1)
        return odds
