"""How many requests will come, from how many came: Holt's double exponential smoothing.

A level and its growth, each pulled towards what was seen last, the growth more slowly (Holt:
Forecasting seasonals and trends by exponentially weighted moving averages, 1957). Windows may be
of any length: what is weighed is time, not their number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LEVEL_SECONDS = 20.0  # what was seen so long ago counts for a third of what is seen now
GROWTH_SECONDS = 60.0
AHEAD_SECONDS = 30.0  # about as long as another agent takes to load a model
MOST = 4.0  # times the level: of a jump, nobody knows yet how far it goes


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Of requests for one model."""

    per_second: float = 0.0
    growth: float = 0.0
    """Of ``per_second``, per second."""
    at: float = 0.0
    """Seconds since the epoch of the last window's end; 0 before the first."""

    def after(self, count: int, now: float) -> Arrivals:
        """After a window in which ``count`` came."""
        seconds = now - self.at
        if not self.at or seconds <= 0:  # the first, or a clock that was set back
            return Arrivals(self.per_second, self.growth, now)
        fresh, fresh_growth = (1 - math.exp(-seconds / t) for t in (LEVEL_SECONDS, GROWTH_SECONDS))
        expected = max(0.0, self.per_second + self.growth * seconds)
        level = fresh * count / seconds + (1 - fresh) * expected
        growth = fresh_growth * (level - self.per_second) / seconds
        return Arrivals(level, growth + (1 - fresh_growth) * self.growth, now)

    def ahead(self, seconds: float = AHEAD_SECONDS) -> float:
        """Requests a second that are expected in ``seconds``."""
        return min(max(0.0, self.per_second + self.growth * seconds), MOST * self.per_second)
