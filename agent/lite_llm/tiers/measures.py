"""What loads tell the metrics: one place that knows which number goes where."""

from __future__ import annotations

from lite_llm.contracts.tiers import Medium
from lite_llm.telemetry import names
from lite_llm.telemetry.metrics import Metrics


class Measures:
    """Counts for one agent; without metrics, into nothing."""

    def __init__(self, metrics: Metrics | None = None, *, node: str = "") -> None:
        """``node`` is the label of gauges, which are a node's."""
        self._metrics = metrics
        self._node = node

    def found(self, medium: Medium) -> None:
        """A request for weights was met by ``medium``."""
        if self._metrics:
            self._metrics[names.TIER_HITS_TOTAL].labels(tier=label(medium)).inc()

    def moved(self, source: Medium, target: Medium, num_bytes: int, seconds: float) -> None:
        """Weights came nearer, from ``source`` to ``target``."""
        if self._metrics:
            ends = {"source": label(source), "target": label(target)}
            self._metrics[names.TIER_LOAD_BYTES_TOTAL].labels(**ends).inc(num_bytes)
            self._metrics[names.TIER_LOAD_SECONDS].labels(**ends).observe(seconds)

    def spent(self, phase: str, num_bytes: int, seconds: float) -> None:
        """A phase of a load was done with so many bytes."""
        if self._metrics:
            self._metrics[names.LOAD_PHASE_BYTES_TOTAL].labels(phase=phase).inc(num_bytes)
            self._metrics[names.LOAD_PHASE_SECONDS_TOTAL].labels(phase=phase).inc(seconds)

    def changed(self, source: Medium, target: Medium, reason: str) -> None:
        """Weights are on another medium now: a load's file, or a file moved between disks."""
        if self._metrics:
            ends = {"source": label(source), "target": label(target)}
            self._metrics[names.TIER_TRANSITIONS_TOTAL].labels(**ends, reason=reason).inc()

    def evicted(self, medium: Medium, reason: str) -> None:
        """A copy on ``medium`` was dropped."""
        if self._metrics:
            labels = {"tier": label(medium), "reason": reason}
            self._metrics[names.EVICTIONS_TOTAL].labels(**labels).inc()

    def fills(self, medium: Medium, **num_bytes: int) -> None:
        """Bytes of ``medium`` by state: capacity, used, and of these reserved and pinned."""
        if self._metrics:
            gauge = self._metrics[names.TIER_BYTES]
            for state, value in num_bytes.items():
                gauge.labels(node=self._node, tier=label(medium), state=state).set(value)

    def downloaded(self, num_bytes: int, *, from_mirror: bool) -> None:
        """Bytes came over the network."""
        if self._metrics:
            source = "mirror" if from_mirror else "origin"
            self._metrics[names.DOWNLOAD_BYTES_TOTAL].labels(source=source).inc(num_bytes)

    def failed_check(self, count: int = 1) -> None:
        """Chunks differed from their checksums."""
        if self._metrics and count:
            self._metrics[names.VERIFY_FAILURES_TOTAL].labels(check="checksum").inc(count)


def label(medium: Medium) -> str:
    """The medium's name as a label's value."""
    return medium.name.lower()
