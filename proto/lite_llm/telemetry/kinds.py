"""What a declared metric is: its kind, labels, unit and buckets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Program(StrEnum):
    """Who exports a metric."""

    OPERATOR = "operator"
    ORCHESTRATOR = "orchestrator"
    AGENT = "agent"


@dataclass(frozen=True)
class Label:
    """A label; without listed values it is open, and capped where it is used."""

    name: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Metric:
    """What every kind has; ``unit`` is the base unit, or empty for plain counts."""

    name: str
    help: str
    programs: frozenset[Program]
    labels: tuple[Label, ...] = ()
    unit: str = ""


@dataclass(frozen=True)
class Counter(Metric):
    """Only grows; its name ends in ``_total``."""


@dataclass(frozen=True)
class Gauge(Metric):
    """Goes up and down."""


@dataclass(frozen=True)
class Histogram(Metric):
    """Observations counted in ``buckets``, upper bounds in the metric's unit, +Inf implied."""

    buckets: tuple[float, ...] = ()


# The edges 0.1, 2, 8 and 15 are our start-time targets from GPU, NVMe, SATA and object store.
COLD_START_BUCKETS = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600, 1200,
)  # fmt: skip
REQUEST_BUCKETS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600,
)  # fmt: skip
TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5, 10)
ROUND_TRIP_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
COUNT_BUCKETS = tuple(float(4**power) for power in range(11))  # 1 to about a million tokens


def declared_in(namespace: Mapping[str, object]) -> tuple[Metric, ...]:
    """The metrics among a module's variables, in their order."""
    return tuple(value for value in namespace.values() if isinstance(value, Metric))
