"""What loads tell the metrics: one place that knows which number goes where."""

from __future__ import annotations

from lite_llm.contracts.tiers import Medium
from lite_llm.telemetry import names
from lite_llm.telemetry.metrics import Metrics


class Measures:
    """Counts for one agent; without metrics, into nothing."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        self._metrics = metrics

    def found(self, medium: Medium) -> None:
        """A request for weights was met by ``medium``."""
        if self._metrics:
            self._metrics[names.TIER_HITS_TOTAL].labels(tier=label(medium)).inc()

    def moved(self, source: Medium, num_bytes: int, seconds: float) -> None:
        """Weights came into host memory from ``source``."""
        if self._metrics:
            ends = {"source": label(source), "target": label(Medium.DRAM)}
            self._metrics[names.TIER_LOAD_BYTES_TOTAL].labels(**ends).inc(num_bytes)
            self._metrics[names.TIER_LOAD_SECONDS].labels(**ends).observe(seconds)

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
