"""Where the time of a cold start went."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from lite_llm.proto.v1.generate_pb2 import ColdStart, LoadPhase, LoadProgress, PhaseTime
from lite_llm.proto.v1.model_pb2 import Medium
from lite_llm.telemetry import Metrics, names

_NEAR = (Medium.MEDIUM_GPU, Medium.MEDIUM_DRAM)
_PHASES = frozenset(LoadPhase.values()) - {LoadPhase.LOAD_PHASE_UNSPECIFIED}
_HERE = (Medium.MEDIUM_NVME, Medium.MEDIUM_SATA)


def path_of(nearest: Medium.ValueType) -> str:
    """What a load from there is called: hot from memory, warm from a disk, else cold."""
    return "hot" if nearest in _NEAR else "warm" if nearest in _HERE else "cold"


class Timeline:
    """Of one load, phase by phase as its agent tells."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.path = "cold"
        self._clock = clock
        self._seconds: dict[LoadPhase.ValueType, float] = {}
        self._phase = LoadPhase.LOAD_PHASE_QUEUE
        self._since = clock()

    def saw(self, progress: LoadProgress) -> None:
        """The load is in this phase now."""
        self._end_phase()
        if progress.phase in _PHASES:  # a newer agent's word counts to the phase before it
            self._phase = progress.phase

    def told(self) -> ColdStart:
        """All phases so far."""
        self._end_phase()
        phases = [
            PhaseTime(phase=phase, seconds=seconds)
            for phase, seconds in sorted(self._seconds.items())
        ]
        return ColdStart(path=self.path, phases=phases)

    def record(self, model: str, outcome: str, metrics: Metrics) -> None:
        """Count the load, which is over."""
        metrics[names.COLD_STARTS_TOTAL].labels(path=self.path, outcome=outcome).inc()
        if outcome != "ok":
            return
        seconds = metrics[names.COLD_START_SECONDS]
        for each in self.told().phases:
            phase = phase_name(each.phase)
            seconds.labels(model=model, path=self.path, phase=phase).observe(each.seconds)

    def _end_phase(self) -> None:
        now = self._clock()
        self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._since
        self._since = now


def phase_name(phase: LoadPhase.ValueType) -> str:
    """As metrics and headers have it: ``to_gpu``."""
    return LoadPhase.Name(phase).removeprefix("LOAD_PHASE_").lower()
