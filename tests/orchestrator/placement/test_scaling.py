"""How many agents a model should have: one table."""

from __future__ import annotations

from typing import Any

import pytest

from lite_llm.placement.facts import Held
from lite_llm.placement.scaling import DOWN_SECONDS, UP_SECONDS, decide, dispensable
from lite_llm.proto.v1.model_pb2 import Scaling
from lite_llm.proto.v1.orchestrator_pb2 import ScalingState

NOW = 1_000_000.0
IDLE = (0, 0)


def on(*loads: tuple[int, int]) -> dict[str, Held]:
    """Agents with so many running and waiting requests each."""
    return {
        f"n{number}": Held(
            serves=True, level=0, num_bytes=0, running=running, waiting=waiting, digest=""
        )
        for number, (running, waiting) in enumerate(loads)
    }


@pytest.mark.parametrize(
    ("scaling", "serving", "state", "desired", "words"),
    [
        pytest.param({"max_replicas": 3}, on(IDLE), {}, 1, "", id="nothing to do"),
        pytest.param({"min_replicas": 2}, on(IDLE), {}, 2, "at least 2", id="the least"),
        pytest.param({"max_replicas": 1}, on(IDLE, IDLE), {}, 1, "at most 1", id="the most"),
        pytest.param({"max_replicas": 3}, on((8, 5)), {}, 2, "5 requests wait", id="a queue"),
        pytest.param({"max_replicas": 3}, on((8, 4)), {}, 1, "", id="a short queue"),
        pytest.param({"max_replicas": 9}, on((8, 40)), {}, 9, "40 requests", id="a long queue"),
        pytest.param({"max_replicas": 1}, on((8, 40)), {}, 1, "", id="the most is the most"),
        pytest.param({}, on((8, 40)), {}, 1, "", id="no most: one"),
        pytest.param(
            {"max_replicas": 3, "target_queue_length": 10}, on((8, 9)), {}, 1, "", id="its own"
        ),
        pytest.param(
            {"max_replicas": 3}, on((8, 9)), {"changed_at": NOW - UP_SECONDS / 2}, 1, "",
            id="one step after the other",
        ),
        pytest.param(
            {"idle_seconds": 60}, on(IDLE), {"used_at": NOW - 61}, 0, "idle for 61 s", id="to zero"
        ),
        pytest.param({"idle_seconds": 60}, on(IDLE), {"used_at": NOW - 59}, 1, "", id="not yet"),
        pytest.param({"idle_seconds": 60}, on((1, 0)), {"used_at": 1}, 1, "", id="it is in use"),
        pytest.param({}, on(IDLE), {"used_at": 1}, 1, "", id="0 is never"),
        pytest.param(
            {"idle_seconds": 60, "min_replicas": 1, "max_replicas": 3}, on(IDLE, IDLE),
            {"used_at": NOW - 99, "changed_at": NOW}, 1, "idle", id="to the least",
        ),
        pytest.param(
            {"max_replicas": 3}, on((2, 0), IDLE), {"changed_at": NOW - DOWN_SECONDS}, 1,
            "2 requests keep 2", id="too many",
        ),
        pytest.param(
            {"max_replicas": 3}, on((2, 0), IDLE), {"changed_at": NOW - 1}, 2, "", id="calm first"
        ),
        pytest.param(
            {"max_replicas": 3}, on((3, 0), (1, 0)), {}, 2, "", id="not too many"
        ),
        pytest.param(
            {"idle_seconds": 60}, on(IDLE), {"used_at": NOW + 3600}, 1, "",
            id="a clock that was set back",
        ),
        pytest.param({"idle_seconds": 60}, on(), {"used_at": 1}, 0, "", id="zero is zero"),
    ],
)  # fmt: skip
def test_decision(
    scaling: dict[str, Any],
    serving: dict[str, Held],
    state: dict[str, Any],
    desired: int,
    words: str,
) -> None:
    decision = decide(Scaling(**scaling), serving, ScalingState(**state), NOW)
    assert decision.desired == desired
    assert (words in decision.reason) if words else not decision.reason


def test_who_does_least_goes_first_and_who_is_pinned_stays() -> None:
    serving = on((3, 0), (0, 1), IDLE)
    assert dispensable(serving, (), 2) == ["n2", "n1"]
    assert dispensable(serving, ["n2"], 1) == ["n1"]
    assert dispensable(serving, ["n0", "n1", "n2"], 3) == []
