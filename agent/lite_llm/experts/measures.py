"""What a cache of experts tells the metrics, and when it warns.

Looked at now and then, between steps, so that it takes no token's time.
Legend: N experts of all layers.
"""

from __future__ import annotations

from typing import Any, Final

import structlog

from lite_llm.contracts.tiers import Medium
from lite_llm.experts.expert_cache import ExpertCache
from lite_llm.telemetry import Metrics, names
from lite_llm.telemetry.kinds import Metric

STEPS: Final = 64
"""Between two looks: what "lately" means in the metrics."""

THRASHING: Final = 0.5
"""Share of misses from which most of a step is waiting, whatever the link is."""

log = structlog.get_logger(__name__)


class ExpertMeasures:
    """Of one model."""

    def __init__(self, cache: ExpertCache, metrics: Metrics, model: str) -> None:
        self._cache = cache
        self._model = model
        self._metrics: Any = metrics  # of any kind of metric
        self._steps = 0
        self._told: dict[tuple[str, ...], float] = {}
        self._uses_N = cache.table.uses_N.copy()
        self._is_thrashing = False

    def stepped(self) -> None:
        """A step is over."""
        self._steps += 1
        if self._steps % STEPS == 0:
            self.tell()

    def tell(self) -> None:
        """All that is new since the last time."""
        table, tally = self._cache.table, self._cache.fetcher.tally
        counts = table.counts
        demands = names.EXPERT_DEMANDS_TOTAL
        hits = self._count(demands, counts.hits, outcome="hit")
        loads = self._count(demands, counts.loads, outcome="loaded")
        passed = self._count(demands, counts.bypasses, outcome="passed")
        early = names.EXPERT_PREFETCHES_TOTAL
        self._count(early, counts.hits_by_prefetch, outcome="used")
        self._count(early, counts.wasted_prefetches, outcome="wasted")
        wasted_bytes = counts.wasted_prefetches * self._cache.slot_bytes
        self._count(names.EXPERT_WASTED_BYTES_TOTAL, wasted_bytes)
        for medium in Medium:
            source = medium.name.lower()
            if medium in tally.fetched:
                num_bytes, seconds = tally.num_bytes[medium], tally.seconds[medium]
                self._count(names.EXPERT_FETCHED_BYTES_TOTAL, num_bytes, source=source)
                self._count(names.EXPERT_FETCH_SECONDS_TOTAL, seconds, source=source)
        self._set(names.EXPERT_SLOTS, table.num_slots, state="capacity")
        self._set(names.EXPERT_SLOTS, table.num_used, state="used")
        self._set(names.EXPERT_SLOTS, table.num_pinned, state="pinned")
        if asked := hits + loads + passed:
            self._warn((loads + passed) / asked)
            starved = int((self._cache.table.uses_N == self._uses_N).sum())
            self._set(names.EXPERTS_STARVED, starved)
            self._uses_N = self._cache.table.uses_N.copy()

    def _warn(self, share: float) -> None:
        self._set(names.EXPERT_MISS_SHARE, share)
        was_thrashing, self._is_thrashing = self._is_thrashing, share > THRASHING
        if self._is_thrashing and not was_thrashing:
            log.warning(
                "most experts that steps ask for are not in the pool",
                model=self._model,
                remedy="give it more memory (hot_bytes), or requests fewer tiers",
            )

    def _count(self, metric: Metric, total: float, **labels: str) -> float:
        """Returns what is new."""
        key = (metric.name, *labels.values())
        new = total - self._told.get(key, 0.0)
        self._told[key] = total
        self._metrics[metric].labels(model=self._model, **labels).inc(new)
        return new

    def _set(self, metric: Metric, value: float, **labels: str) -> None:
        self._metrics[metric].labels(model=self._model, **labels).set(value)
