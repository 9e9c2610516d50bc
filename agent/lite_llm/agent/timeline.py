"""Where the time of a model's start goes, phase by phase: as metrics, as a trace, and in words."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

from lite_llm.contracts import Medium
from lite_llm.proto.v1 import generate_pb2
from lite_llm.proto.v1.generate_pb2 import ColdStart, LoadPhase, PhaseTime
from lite_llm.telemetry import names, traces
from lite_llm.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from opentelemetry.context import Context

PHASES: Final[dict[int, str]] = {
    generate_pb2.LOAD_PHASE_QUEUE: "queue",
    generate_pb2.LOAD_PHASE_SCHEDULE: "schedule",
    generate_pb2.LOAD_PHASE_FETCH: "fetch",
    generate_pb2.LOAD_PHASE_READ: "read",
    generate_pb2.LOAD_PHASE_TO_GPU: "to_gpu",
    generate_pb2.LOAD_PHASE_INIT: "init",
}
"""Words of the metric by the wire's."""

Outcome = Literal["ok", "failed", "cancelled"]


class Timeline:
    """Of one model; measures from :meth:`begin` to :meth:`end`, and nothing outside."""

    def __init__(
        self,
        metrics: Metrics | None,
        model: str,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        """``now`` is asked once a start: a clock that is set meanwhile makes no phase negative."""
        self.parent: Context | None = None
        """The trace of whoever asked for the next start."""
        self.last = ColdStart()
        """The last start that led to a model that serves."""
        self.ended_at = 0.0
        """When that was, in seconds since the epoch; 0: never."""
        self._metrics = metrics
        self._model = model
        self._clock = clock
        self._now = now
        self._path = ""
        self._phase: LoadPhase.ValueType = generate_pb2.LOAD_PHASE_QUEUE
        self._since = self._epoch = 0
        self._parts: list[traces.Part] = []
        self._spent: dict[LoadPhase.ValueType, int] = {}

    def begin(self, medium: Medium) -> None:
        """A start from ``medium``, the nearest that has all of the model."""
        near = "hot" if medium <= Medium.DRAM else "warm"
        self._path = near if medium < Medium.OBJECT_STORE else "cold"
        self._phase, self._since = generate_pb2.LOAD_PHASE_QUEUE, self._clock()
        self._epoch = self._now() - self._since
        self._parts, self._spent = [], {}

    def enter(self, phase: LoadPhase.ValueType) -> None:
        """What comes now is this phase; others may lie between its parts."""
        if self._path and phase in PHASES and phase != self._phase:
            self._add()
            self._phase = phase

    def end(self, outcome: Outcome) -> None:
        """The model serves, or it will not. Again: nothing."""
        path, self._path = self._path, ""
        if not path:
            return
        self._add()
        told = {"model": self._model, "path": path, "outcome": outcome}
        traces.record("model start", self._parts, parent=self.parent, **told)
        self.parent = None
        if outcome == "ok":
            phases = [
                PhaseTime(phase=phase, seconds=spent / 1e9)
                for phase, spent in sorted(self._spent.items())
            ]
            self.last = ColdStart(path=path, phases=phases)
            self.ended_at = self._parts[-1].ended_ns / 1e9
        if self._metrics is not None:
            for phase, spent in self._spent.items():
                labels = {"model": self._model, "path": path, "phase": PHASES[phase]}
                self._metrics[names.COLD_START_SECONDS].labels(**labels).observe(spent / 1e9)
            started = self._metrics[names.COLD_STARTS_TOTAL]
            started.labels(path=path, outcome=outcome).inc()

    def _add(self) -> None:
        began, self._since = self._since, self._clock()
        self._spent[self._phase] = self._spent.get(self._phase, 0) + self._since - began
        name = PHASES[self._phase]
        self._parts.append(traces.Part(name, self._epoch + began, self._epoch + self._since))
