"""Tenants take turns by what they were served, not by how much they ask for.

Virtual token counters of Sheng et al., "Fairness in serving large language models" (OSDI 2024).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

MANY = 64  # counters: they cost nothing
PROMPT_COST, ANSWER_COST = 1.0, 2.0  # a token's, as in the paper: answers hold the batch up longer


class Fairness:
    """What each tenant was served, divided by its weight."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        """A tenant of twice the weight is served twice as much; 1 where none is given."""
        self._weights = weights or {}
        self._served: dict[str, float] = {}

    def served(self, tenant: str) -> float:
        """Whoever has least is next."""
        return self._served.get(tenant, 0.0)

    def join(self, tenant: str, present: Collection[str]) -> None:
        """``tenant`` asks again after a pause; ``present`` are those with requests now.

        Whoever was away has saved nothing up, or it could keep all others waiting.
        """
        if present:
            least = min(map(self.served, present))
            self._served[tenant] = max(self.served(tenant), least)

    def charge(self, tenant: str, *, prompt_tokens: int = 0, answer_tokens: int = 0) -> None:
        """Tokens that were computed for ``tenant``; what a cache had is free."""
        cost = PROMPT_COST * prompt_tokens + ANSWER_COST * answer_tokens
        self._served[tenant] = self.served(tenant) + cost / self._weights.get(tenant, 1.0)

    def forget(self, present: Collection[str]) -> None:
        """Drop counters that :meth:`join` would lift anyway, once there are many."""
        if len(self._served) > 2 * len(present) + MANY:
            least = min(map(self.served, present), default=math.inf)
            self._served = {
                tenant: served
                for tenant, served in self._served.items()
                if tenant in present or served > least
            }
