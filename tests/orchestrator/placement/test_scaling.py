"""How many agents a model should have: one table."""

from __future__ import annotations

from typing import Any

import pytest

from lite_llm.placement.facts import Held
from lite_llm.placement.forecast import AHEAD_SECONDS, Arrivals
from lite_llm.placement.scaling import (
    DOWN_SECONDS,
    UP_SECONDS,
    Demand,
    decide,
    dispensable,
    full_at,
)
from lite_llm.proto.v1.model_pb2 import Medium, ModelSpec, Scaling, ScheduledFloor
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


def spec(**scaling: Any) -> ModelSpec:
    return ModelSpec(scaling=Scaling(**scaling))


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
    decision = decide(spec(**scaling), serving, ScalingState(**state), NOW)
    assert decision.desired == desired
    assert (words in decision.reason) if words else not decision.reason


def test_who_does_least_goes_first_and_who_is_pinned_stays() -> None:
    serving = on((3, 0), (0, 1), IDLE)
    assert dispensable(serving, (), 2) == ["n2", "n1"]
    assert dispensable(serving, ["n2"], 1) == ["n1"]
    assert dispensable(serving, ["n0", "n1", "n2"], 3) == []


GROWING = Arrivals(per_second=10.0, growth=10.0 / AHEAD_SECONDS, at=NOW)


@pytest.mark.parametrize(
    ("scaling", "serving", "demand", "desired", "words"),
    [
        pytest.param(
            {"max_replicas": 3}, on((1, 0)), Demand(held=9), 3, "9 requests wait", id="who is held",
        ),
        pytest.param(
            {"max_replicas": 3}, on(), Demand(held=9), 0, "", id="a request brings the first",
        ),
        pytest.param(
            {"max_replicas": 4}, on((8, 0)), Demand(0, GROWING, 8.0), 2,
            "20 requests a second are expected in 30 s, 10 come now", id="twice as many soon",
        ),
        pytest.param(
            {"max_replicas": 4, "replica_requests": 4}, on((8, 0)), Demand(0, GROWING, 8.0), 4,
            "are expected", id="as the spec plans",
        ),
        pytest.param(
            {"max_replicas": 4}, on((8, 0)), Demand(0, GROWING), 1, "",
            id="nobody knows what an agent can do",
        ),
        pytest.param(
            {"max_replicas": 4}, on((8, 0)), Demand(0, Arrivals(10.0, 0.0, NOW), 4.0), 1, "",
            id="what is steady is the queue's matter",
        ),
        pytest.param(
            {"max_replicas": 4}, on((3, 0), IDLE), Demand(0, Arrivals(10.0, 1.0, NOW), 8.0), 2, "",
            id="none leaves while more are expected",
        ),
        pytest.param(
            {"max_replicas": 4, "idle_seconds": 60}, on(IDLE), Demand(held=1), 1, "",
            id="who waits keeps it",
        ),
    ],
)  # fmt: skip
def test_decision_on_demand(
    scaling: dict[str, Any], serving: dict[str, Held], demand: Demand, desired: int, words: str
) -> None:
    decision = decide(spec(**scaling), serving, ScalingState(used_at=1), NOW, demand)
    assert decision.desired == desired
    assert (words in decision.reason) if words else not decision.reason


def test_cool_downs_are_the_specs() -> None:
    def desired(serving: dict[str, Held], since: float, **scaling: int) -> int:
        return decide(
            spec(max_replicas=3, **scaling), serving, ScalingState(changed_at=NOW - since), NOW
        ).desired

    assert desired(on((8, 5)), 29, up_cooldown_seconds=30) == 1
    assert desired(on((8, 5)), 30, up_cooldown_seconds=30) == 2
    assert desired(on((1, 0), IDLE), 9, down_cooldown_seconds=10) == 2
    assert desired(on((1, 0), IDLE), 10, down_cooldown_seconds=10) == 1


def test_a_floor_holds_in_its_window_and_says_so() -> None:
    floor = ScheduledFloor(start="00:00", end="00:00", min_replicas=2)
    decision = decide(spec(floors=[floor]), on(IDLE), ScalingState(), NOW)
    assert decision.desired == 2
    assert decision.reason.endswith("should serve it, every day 00:00 to 00:00 UTC")


def test_what_is_kept_on_the_device_never_goes_to_zero() -> None:
    warm = ModelSpec(keep_warm=Medium.MEDIUM_GPU, scaling=Scaling(idle_seconds=1))
    assert decide(warm, on(), ScalingState(), NOW).desired == 1
    assert decide(warm, on(IDLE), ScalingState(used_at=1), NOW).desired == 1


def test_what_an_agent_can_run_is_learnt_when_others_wait() -> None:
    assert full_at(on((8, 0)), 0.0) == 0.0
    assert full_at(on((8, 1), (3, 0)), 2.0) == 8.0
    assert full_at(on((0, 1)), 2.0) == 2.0
