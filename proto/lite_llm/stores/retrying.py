"""How long to wait before the next attempt. Pure: the caller sleeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from random import random

LONGEST_RETRY_AFTER = 60.0
"""Seconds. A server that asks for more is treated as away, and a mirror is tried."""


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Exponential, with jitter so that sixteen connections do not come back in step."""

    attempts: int = 6
    """In a row without a single byte; every byte that arrives starts the count again."""
    first_seconds: float = 0.2
    longest_seconds: float = 15.0

    def delay(
        self, failures: int, retry_after: float = 0.0, chance: Callable[[], float] = random
    ) -> float | None:
        """Seconds before the attempt that follows ``failures`` failed ones; None: give up.

        ``retry_after`` is what the server asked for, in seconds, and is never undercut.
        """
        if failures >= self.attempts or retry_after > LONGEST_RETRY_AFTER:
            return None
        steps = min(self.first_seconds * 2.0 ** (failures - 1), self.longest_seconds)
        return max(retry_after, steps * (0.5 + chance() / 2))


def parse_retry_after(value: str, now: datetime) -> float:
    """Seconds from a ``Retry-After`` header, which holds seconds or a date; 0 if it says nothing.

    ``now`` has a time zone (RFC 9110, section 10.2.3).
    """
    value = value.strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0
