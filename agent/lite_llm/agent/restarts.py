"""Whether and when a model whose worker crashed gets another: no clock, no process.

Waits double from crash to crash. After too many the breaker opens, and nothing is tried until its
time is over; a model that served for long enough starts again with a clean slate.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """How patient to be with workers that crash."""

    first_seconds: float = 0.5
    longest_seconds: float = 30.0
    most_crashes: int = 5
    """In a row, after which the breaker opens."""
    open_seconds: float = 60.0
    """How long it stays open, if nobody unloads the model."""
    stable_seconds: float = 60.0
    """Of serving, after which a crash counts as the first."""


class Restarts:
    """Of one model; times are in seconds on the caller's clock."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._serving_since: float | None = None
        self._first_crash = 0.0
        self._opened_at: float | None = None
        self.crashes = 0
        """In a row."""

    def served(self, now: float) -> None:
        """The model serves from now on."""
        self._serving_since = now

    def crashed(self, now: float) -> float | None:
        """Seconds until the next attempt; None: no more, the breaker is open."""
        since, self._serving_since = self._serving_since, None
        if since is not None and now - since >= self._policy.stable_seconds:
            self.crashes = 0
        if not self.crashes:
            self._first_crash = now
        self.crashes += 1
        if self.crashes >= self._policy.most_crashes:
            self._opened_at = now
            return None
        steps = self._policy.first_seconds * 2.0 ** (self.crashes - 1)
        return min(steps, self._policy.longest_seconds)

    def closed_in(self, now: float) -> float:
        """Seconds until a load is tried again; 0 while the breaker is closed."""
        if self._opened_at is None:
            return 0.0
        left = self._opened_at + self._policy.open_seconds - now
        if left <= 0:
            # One attempt: another crash opens it at once.
            self._opened_at, self.crashes = None, self._policy.most_crashes - 1
        return max(0.0, left)

    def words(self, now: float) -> str:
        """Why there is no further attempt."""
        return f"crashed {self.crashes} times in {now - self._first_crash:.0f} s"
