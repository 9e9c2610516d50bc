"""A start's time is told by phase, once: as metrics, in a report, and as one trace."""

from collections.abc import Sequence
from itertools import pairwise

import pytest

from lite_llm.agent.timeline import Timeline
from lite_llm.contracts import Medium
from lite_llm.proto.v1.generate_pb2 import (
    LOAD_PHASE_FETCH,
    LOAD_PHASE_INIT,
    LOAD_PHASE_QUEUE,
    LOAD_PHASE_READ,
    LoadPhase,
)
from lite_llm.telemetry import Metrics, Program, names, traces

SECOND = 1_000_000_000


class Clock:
    """Two clocks: one that only goes on, and one that somebody sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.epoch = 1000.0

    def monotonic(self) -> int:
        return int(self.now * SECOND)

    def wall(self) -> int:
        return int((self.epoch + self.now) * SECOND)


def timeline(metrics: Metrics | None, clock: Clock) -> Timeline:
    return Timeline(metrics, "default/m", clock=clock.monotonic, now=clock.wall)


def test_a_start_from_a_store() -> None:
    clock = Clock()
    metrics = Metrics(names.exported_by(Program.AGENT))
    start = timeline(metrics, clock)

    def seconds(phase: str, path: str = "cold") -> float | None:
        labels = {"model": "default/m", "path": path, "phase": phase}
        return metrics.registry.get_sample_value("lite_llm_cold_start_seconds_sum", labels)

    def enter(phase: LoadPhase.ValueType, at: float) -> None:
        clock.now = at
        start.enter(phase)

    start.enter(LOAD_PHASE_READ)  # nothing has begun
    start.end("ok")
    assert seconds("read") is None
    assert start.ended_at == 0.0
    start.begin(Medium.OBJECT_STORE)
    enter(LOAD_PHASE_FETCH, 1.0)
    clock.epoch -= 500.0  # somebody sets the clock: no phase notices
    enter(LOAD_PHASE_QUEUE, 5.0)
    enter(LOAD_PHASE_INIT, 7.0)
    clock.now = 7.5
    start.end("ok")
    start.end("failed")
    assert (seconds("queue"), seconds("fetch"), seconds("init")) == (3.0, 4.0, 0.5)
    assert (start.last.path, start.ended_at) == ("cold", 1007.5)
    assert [(phase.phase, phase.seconds) for phase in start.last.phases] == [
        (LOAD_PHASE_QUEUE, 3.0),
        (LOAD_PHASE_FETCH, 4.0),
        (LOAD_PHASE_INIT, 0.5),
    ]
    start.begin(Medium.DRAM)
    clock.now = 8.0
    start.end("cancelled")
    assert seconds("queue", "hot") == 0.5
    assert start.last.path == "cold"  # the last that led to a model that serves
    start.begin(Medium.NVME)
    start.end("ok")
    assert start.last.path == "warm"

    def starts(path: str, outcome: str) -> float | None:
        labels = {"path": path, "outcome": outcome}
        return metrics.registry.get_sample_value("lite_llm_cold_starts_total", labels)

    assert (starts("cold", "ok"), starts("cold", "failed")) == (1.0, 0.0)
    assert starts("hot", "cancelled") == 1.0


def test_a_start_is_one_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[tuple[str, list[traces.Part], dict[str, object]]] = []

    def record(name: str, parts: Sequence[traces.Part], **attributes: object) -> None:
        recorded.append((name, list(parts), attributes))

    monkeypatch.setattr(traces, "record", record)
    clock = Clock()
    start = timeline(None, clock)
    start.begin(Medium.OBJECT_STORE)
    for at, phase in ((1.0, LOAD_PHASE_FETCH), (2.0, LOAD_PHASE_FETCH), (3.0, LOAD_PHASE_INIT)):
        clock.now = at
        start.enter(phase)
    clock.now = 4.0
    start.end("failed")
    ((name, parts, attributes),) = recorded
    assert name == "model start"
    assert [part.name for part in parts] == ["queue", "fetch", "init"]
    edges = [1000 * SECOND, 1001 * SECOND, 1003 * SECOND, 1004 * SECOND]
    assert [(part.began_ns, part.ended_ns) for part in parts] == [*pairwise(edges)]
    told = {"model": "default/m", "path": "cold", "outcome": "failed", "parent": None}
    assert attributes == told
