"""Where the time of a model's start goes, phase by phase, as metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Literal

from lite_llm.contracts import Medium
from lite_llm.proto.v1 import generate_pb2
from lite_llm.telemetry import names
from lite_llm.telemetry.metrics import Metrics

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
        self, metrics: Metrics | None, model: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._metrics = metrics
        self._model = model
        self._clock = clock
        self._path = ""
        self._phase = ""
        self._since = 0.0
        self._seconds: dict[str, float] = {}

    def begin(self, medium: Medium) -> None:
        """A start from ``medium``, the nearest that has all of the model."""
        self._path = "warm" if medium <= Medium.DRAM else "cold"
        self._phase, self._since, self._seconds = "queue", self._clock(), {}

    def enter(self, phase: int) -> None:
        """What comes now is this ``LoadPhase``; others may lie between its parts."""
        if self._path and (word := PHASES.get(phase, "")):
            self._add()
            self._phase = word

    def end(self, outcome: Outcome) -> None:
        """The model serves, or it will not. Again: nothing."""
        if self._path and self._metrics is not None:
            self._add()
            for phase, seconds in self._seconds.items():
                labels = {"model": self._model, "path": self._path, "phase": phase}
                self._metrics[names.COLD_START_SECONDS].labels(**labels).observe(seconds)
            started = self._metrics[names.COLD_STARTS_TOTAL]
            started.labels(path=self._path, outcome=outcome).inc()
        self._path = ""

    def _add(self) -> None:
        now = self._clock()
        self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._since
        self._since = now
