"""How long answers become, learned from those that ended: admission counts on it.

After Tokasaurus (Hazy Research, 2025): answers stop at some fraction of what they were allowed, and
one that has come far already is expected to be among the longer ones.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import deque
from itertools import accumulate

REMEMBERED = 512  # answers; older ones tell of other clients
ENOUGH = 16  # answers; before that each is expected to take all that it may
CAUTION = 0.25  # standard deviations on top: too few pages cost more than too many


class Lengths:
    """Of one model's answers."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self._sums: list[float] = []
        self._squares: list[float] = []

    def observe(self, num_tokens: int, max_tokens: int) -> None:
        """An answer ended by itself or at its limit."""
        if len(self._recent) == REMEMBERED:
            self._sorted.remove(self._recent.popleft())
        fraction = num_tokens / max_tokens
        self._recent.append(fraction)
        insort(self._sorted, fraction)
        longest_first = self._sorted[::-1]
        self._sums = list(accumulate(longest_first))
        self._squares = list(accumulate(each * each for each in longest_first))

    def expected(self, num_tokens: int, max_tokens: int) -> int:
        """Tokens of an answer that has ``num_tokens`` already; at most ``max_tokens``."""
        longer = len(self._sorted) - bisect_right(self._sorted, num_tokens / max_tokens)
        if longer < ENOUGH:
            return max_tokens
        mean = self._sums[longer - 1] / longer
        variance = max(0.0, self._squares[longer - 1] / longer - mean * mean)
        fraction = min(1.0, mean + CAUTION * math.sqrt(variance))
        return min(max_tokens, max(num_tokens + 1, round(fraction * max_tokens)))
