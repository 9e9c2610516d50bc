"""How often a request may be sent again before its client is told that it failed."""

from __future__ import annotations

FRUITLESS = 3  # faults in a row that a request survives if no token came between them
PAUSES = (0.0, 0.1, 0.4)  # seconds before it is sent again, by how many were fruitless before
SHARE = 0.1  # of all requests may be sent again more than once: a sick fleet gets no second load
RESERVE = 20.0  # that many more, so that a quiet fleet has a budget too


class RetryBudget:
    """Of one orchestrator: the first replay of a request is free, further ones are counted."""

    def __init__(self) -> None:
        self._tokens = RESERVE

    def earn(self) -> None:
        """A request came."""
        self._tokens = min(self._tokens + SHARE, RESERVE + 100 * SHARE)

    def spend(self) -> bool:
        """Whether there is one more."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Tries:
    """Of one request."""

    def __init__(self, budget: RetryBudget) -> None:
        budget.earn()
        self._budget = budget
        self._fruitless = 0
        self._has_failed = False
        self._tokens = 0

    def pause(self, num_tokens: int) -> float | None:
        """Seconds until the request may be sent again after a fault; None: it may not.

        ``num_tokens`` is how many its client has by now.
        """
        if num_tokens > self._tokens:
            self._fruitless, self._tokens = 0, num_tokens
        pause = PAUSES[self._fruitless] if self._fruitless < FRUITLESS else None
        self._fruitless += 1
        is_free, self._has_failed = not self._has_failed, True
        return pause if pause is not None and (is_free or self._budget.spend()) else None
