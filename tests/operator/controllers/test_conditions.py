"""Conditions follow Kubernetes' conventions."""

from typing import Any

from lite_llm.controllers.conditions import Condition, with_condition


def accepted(
    conditions: list[Condition], status: bool, now: str, **changes: Any
) -> list[Condition]:
    told = {"reason": "Stored", "message": "fine", "generation": 1, **changes}
    return with_condition(conditions, kind="Accepted", status=status, now=now, **told)


def test_setting_what_is_set_changes_nothing() -> None:
    first = accepted([], True, "t1")
    assert accepted(first, True, "t2") == first


def test_the_transition_time_moves_only_when_the_status_flips() -> None:
    first = accepted([], True, "t1")
    reworded = accepted(first, True, "t2", message="still fine", generation=2)
    assert reworded[0]["lastTransitionTime"] == "t1"
    assert reworded[0]["message"] == "still fine"
    assert reworded[0]["observedGeneration"] == 2
    flipped = accepted(reworded, False, "t3", reason="InvalidName")
    assert flipped[0]["lastTransitionTime"] == "t3"
    assert flipped[0]["status"] == "False"


def test_conditions_of_others_stay() -> None:
    other = {"type": "Ready", "status": "True", "lastTransitionTime": "t0"}
    both = accepted([other], True, "t1")
    assert [condition["type"] for condition in both] == ["Accepted", "Ready"]
    assert both[1] == other
