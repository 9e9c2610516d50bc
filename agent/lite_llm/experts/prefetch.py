"""Experts fetched before anybody asks: the next layer's router, asked about this layer's input, and
what the tokens before have used, for the layers behind it.

Residual streams change little from layer to layer, so that router's choice is mostly right. Behind
the last layer come the first ones again, of the next token: nothing but habits speaks for these.
What came in vain is counted, and where that is most of it, nothing is fetched early for a while.

Legend: T rows, D hidden, K experts a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from torch import Tensor

from lite_llm.experts.expert_cache import ExpertCache
from lite_llm.experts.routing import Routed
from lite_llm.experts.selection import OfRows

MOST_ROWS: Final = 16
"""With more, a layer asks for most of its experts anyway, and waits for whole waves of them."""

WINDOW: Final = 64
"""Experts that came early and were used, or left, between two looks at how many were used."""

LEAST_USED: Final = 0.3
"""Share of those below which it pays no more: each vain one takes the way from a needed one."""

PROBE_STEPS: Final = 256
"""Layers that run between attempts while it does not pay."""


class Throttle:
    """Whether to fetch ahead, from what came of it so far: of counts alone, so always the same."""

    def __init__(self) -> None:
        self.share_used = 0.75
        """Of those that were fetched early, as last seen; what public measurements say, before."""
        self._seen = (0, 0)
        self._closed_for = 0

    def may(self, used: int, wasted: int) -> bool:
        """``used`` and ``wasted``: experts so far."""
        new_used, new_wasted = used - self._seen[0], wasted - self._seen[1]
        if new_used + new_wasted >= WINDOW:
            self._seen = used, wasted
            self.share_used = new_used / (new_used + new_wasted)
            self._closed_for = PROBE_STEPS if self.share_used < LEAST_USED else 0
        self._closed_for = max(0, self._closed_for - 1)
        return not self._closed_for


class Ahead:
    """What one layer does for the next one that has experts."""

    def __init__(
        self,
        cache: ExpertCache,
        throttle: Throttle,
        layer: int,
        route: Callable[[Tensor], Routed] | None,
        *,
        distance: int = 1,
        habits: Sequence[tuple[int, int]] = (),
    ) -> None:
        """``layer`` is ``distance`` layers away; ``route``: what it would choose for an input.

        ``habits``: layers, and how far away they are, that are asked for what tokens before used.
        """
        self._habits = habits
        self._cache = cache
        self._throttle = throttle
        self._layer = layer
        self._route = route
        self._distance = distance

    def __call__(self, x_TD: Tensor) -> None:
        """Of an input of this layer, whose own experts are on their way."""
        counts = self._cache.table.counts
        if len(x_TD) > MOST_ROWS or not self._cache.has_missed_lately:
            return
        if not self._throttle.may(counts.hits_by_prefetch, counts.wasted_prefetches):
            return
        if self._route is not None:
            self._by_router(self._route, x_TD)
        for layer, distance in self._habits:
            self._cache.expect_likely(layer, distance)

    def _by_router(self, route: Callable[[Tensor], Routed], x_TD: Tensor) -> None:
        try:
            routed = route(x_TD)
        except OfRows:  # whose own step will say what is wrong with them
            return
        rows: set[int] = set(routed.experts_TK.flatten().tolist()) - {-1}
        self._cache.expect(self._layer, sorted(rows), self._throttle.share_used, self._distance)
