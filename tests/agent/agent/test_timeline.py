"""A start's time is told by phase, once."""

from lite_llm.agent.timeline import Timeline
from lite_llm.contracts import Medium
from lite_llm.proto.v1 import generate_pb2
from lite_llm.telemetry import Metrics, Program, names


def test_a_start_from_a_store() -> None:
    now = 0.0
    metrics = Metrics(names.exported_by(Program.AGENT))
    timeline = Timeline(metrics, "default/m", clock=lambda: now)

    def seconds(phase: str, path: str = "cold") -> float | None:
        labels = {"model": "default/m", "path": path, "phase": phase}
        return metrics.registry.get_sample_value("lite_llm_cold_start_seconds_sum", labels)

    timeline.enter(generate_pb2.LOAD_PHASE_READ)  # nothing has begun
    timeline.end("ok")
    assert seconds("read") is None
    timeline.begin(Medium.OBJECT_STORE)
    now = 1.0
    timeline.enter(generate_pb2.LOAD_PHASE_FETCH)
    now = 5.0
    timeline.enter(generate_pb2.LOAD_PHASE_QUEUE)
    now = 7.0
    timeline.enter(generate_pb2.LOAD_PHASE_INIT)
    now = 7.5
    timeline.end("ok")
    timeline.end("failed")
    assert (seconds("queue"), seconds("fetch"), seconds("init")) == (3.0, 4.0, 0.5)
    timeline.begin(Medium.DRAM)
    now = 8.0
    timeline.end("cancelled")
    assert seconds("queue", "warm") == 0.5

    def starts(path: str, outcome: str) -> float | None:
        labels = {"path": path, "outcome": outcome}
        return metrics.registry.get_sample_value("lite_llm_cold_starts_total", labels)

    assert (starts("cold", "ok"), starts("cold", "failed")) == (1.0, 0.0)
    assert starts("warm", "cancelled") == 1.0
