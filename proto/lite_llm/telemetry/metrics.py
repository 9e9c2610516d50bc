"""Collectors for the declared metrics, in a registry of our own, and their exposition.

A program makes one :class:`Metrics` and hands it to the rooms that measure::

    metrics = Metrics(names.exported_by(Program.AGENT))
    metrics[names.TIER_HITS_TOTAL].labels(tier="nvme").inc()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from importlib import metadata
from itertools import product
from threading import Lock
from typing import Any, Generic, TypeVar, overload

import prometheus_client
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics import exposition as openmetrics

from lite_llm.telemetry import kinds, names
from lite_llm.telemetry.kinds import Label, Metric, Program

MAX_VALUES = 1000  # of one open label: a client that invents names can't fill the memory
MAX_VALUE_LENGTH = 253  # characters; the longest name that is legal anywhere is a node's
OTHER = "other"
"""What a label says of values beyond the cap."""

C = TypeVar("C", prometheus_client.Counter, prometheus_client.Gauge, prometheus_client.Histogram)


class Family(Generic[C]):
    """One metric with all its series."""

    def __init__(self, metric: Metric, collector: C, capped: Callable[[str, str], str]) -> None:
        self._metric = metric
        self._labels = {label.name: frozenset(label.values) for label in metric.labels}
        self._collector: C = collector
        self._capped = capped

    def labels(self, **values: str) -> C:
        """The series with these values; without labels, the only one.

        Raises ``ValueError`` for other than the declared labels, and for a value that is not among
        a label's listed ones. Beyond the cap an open label's value becomes "other". Keep the
        series where it is used often: the look-up takes a few microseconds.
        """
        if values.keys() != self._labels.keys():
            raise ValueError(
                f"{self._metric.name} has the labels {list(self._labels)}, not {list(values)}"
            )
        if not values:
            return self._collector
        return self._collector.labels(
            **{name: self._checked(name, values[name]) for name in values}
        )

    def remove(self, **values: str) -> None:
        """Forget every series with these values, as when a model is gone."""
        if unknown := values.keys() - self._labels.keys():
            raise ValueError(f"{self._metric.name} has no label {min(unknown)!r}")
        self._collector.remove_by_labels(values)

    def _checked(self, name: str, value: str) -> str:
        if not (listed := self._labels[name]):
            return self._capped(name, value)
        if value not in listed:
            raise ValueError(
                f"{value!r} is not declared for the label {name!r} of {self._metric.name}: "
                f"{', '.join(sorted(listed))}"
            )
        return value


class Metrics:
    """The families of one process; ``registry`` is what :func:`render` shows."""

    def __init__(
        self, declared: Iterable[Metric] = names.METRICS, *, max_values: int = MAX_VALUES
    ) -> None:
        """Also measures this process: ``process_resident_memory_bytes`` and its like."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._max_values = max_values
        self._seen: dict[str, set[str]] = {}
        self._lock = Lock()
        self._families = {metric.name: self._family(metric) for metric in declared}

    @overload
    def __getitem__(self, metric: kinds.Counter) -> Family[prometheus_client.Counter]: ...
    @overload
    def __getitem__(self, metric: kinds.Gauge) -> Family[prometheus_client.Gauge]: ...
    @overload
    def __getitem__(self, metric: kinds.Histogram) -> Family[prometheus_client.Histogram]: ...
    def __getitem__(self, metric: Metric) -> Family[Any]:
        """The family of a declared metric; ``LookupError`` for any other."""
        try:
            return self._families[metric.name]
        except KeyError:
            raise LookupError(f"{metric.name} is not among the metrics of this program") from None

    def _family(self, metric: Metric) -> Family[Any]:
        described: dict[str, Any] = {
            "name": metric.name,
            "documentation": metric.help,
            "labelnames": [label.name for label in metric.labels],
            "registry": self.registry,
            "unit": metric.unit,
        }
        collector: Any
        match metric:
            case kinds.Counter():
                collector = prometheus_client.Counter(**described)
            case kinds.Histogram():
                collector = prometheus_client.Histogram(**described, buckets=metric.buckets)
            case _:
                collector = prometheus_client.Gauge(**described)
        family = Family(metric, collector, self._capped)
        if isinstance(metric, kinds.Counter) and metric.labels:
            _start_at_zero(family, metric.labels)
        return family

    def _capped(self, label: str, value: str) -> str:
        seen = self._seen.setdefault(label, set())
        if value in seen:
            return value
        with self._lock:
            if len(seen) >= self._max_values or len(value) > MAX_VALUE_LENGTH:
                return OTHER
            seen.add(value)
        return value


def _start_at_zero(family: Family[Any], labels: tuple[Label, ...]) -> None:
    # A counter that appears with its first event hides that event from rate().
    if all(label.values for label in labels):
        for values in product(*(label.values for label in labels)):
            family.labels(**dict(zip((label.name for label in labels), values, strict=True)))


def render(registry: CollectorRegistry, accept: str = "") -> tuple[bytes, str]:
    """Body and content type of a scrape, as the ``Accept`` header asks: text or OpenMetrics."""
    encode, content_type = choose_encoder(accept)
    if content_type.startswith("application/openmetrics-text"):
        # "Escaping" to underscores, the client's default here, would spell vllm:x as vllm_x
        # (prometheus_client 0.26). All our names are legal without any escaping.
        encode = partial(openmetrics.generate_latest, escaping=openmetrics.ALLOWUTF8)
        content_type = openmetrics.CONTENT_TYPE_LATEST
    return encode(registry), content_type


def metrics_of(program: Program) -> Metrics:
    """Of one running program, with what is installed."""
    metrics = Metrics(names.exported_by(program))
    metrics[names.BUILD_INFO].labels(version=metadata.version("lite-llm")).set(1)
    return metrics
