"""Which record leaves first when a medium is full, and when one has earned a nearer medium.

Pure. Sign convention (SPEC-027): the record with the highest priority leaves first. The defaults
make it plain least recently used; the other weights are there for tiers that know better.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final

HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictionWeights:
    """Weights of ``alpha/(uses+1) + beta*age + gamma*size + delta*rank``."""

    alpha: float = 0.0
    """Rarely used records leave earlier."""
    beta: float = 1.0
    """Per hour since the last use."""
    gamma: float = 0.0
    """Per GiB: large records leave earlier."""
    delta: float = 0.0
    """Per rank of importance, where a higher rank is less important."""
    seed: int = 0
    """Of the order among equals."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What eviction knows about one record."""

    key: str
    num_bytes: int
    recent: tuple[float, ...] = ()
    """Times of the last uses in seconds, oldest first; as many as promotion has to count."""
    uses: int = 0
    rank: int = 0

    @property
    def last_use(self) -> float:
        """Seconds on the caller's clock; minus infinity if it was never used."""
        return self.recent[-1] if self.recent else float("-inf")

    def used(self, now: float, *, keep: int) -> Usage:
        """With one more use, remembering the last ``keep`` times."""
        return replace(self, recent=(*self.recent, now)[-keep:], uses=self.uses + 1)


def leaving_order(candidates: Iterable[Usage], now: float, weights: EvictionWeights) -> list[Usage]:
    """The candidates, the least useful first; ties in a seeded order that no clock decides."""
    return sorted(
        candidates,
        key=lambda usage: (-priority(usage, now, weights), _shuffled(usage.key, weights.seed)),
    )


def priority(usage: Usage, now: float, weights: EvictionWeights) -> float:
    """How much the record deserves to leave. Infinite for what was never used."""
    age = (now - usage.last_use) / HOUR
    return (
        weights.alpha / (usage.uses + 1)
        + (weights.beta * age if weights.beta else 0.0)
        + weights.gamma * usage.num_bytes / (1 << 30)
        + weights.delta * usage.rank
    )


def is_earning_promotion(usage: Usage, now: float, *, above_per_hour: int) -> bool:
    """Whether the record had more than ``above_per_hour`` uses in the last hour."""
    return len(usage.recent) > above_per_hour and now - usage.recent[-1 - above_per_hour] <= HOUR


def _shuffled(key: str, seed: int) -> bytes:
    return blake2b(key.encode(), digest_size=8, key=seed.to_bytes(16, "little")).digest()
