"""Conditions of a custom resource."""

from lite_llm.controllers.conditions import (
    MAX_MESSAGE,
    condition_of,
    fails,
    holds,
    unknown,
    with_conditions,
)

EARLY, LATE = "2026-11-21T00:00:00Z", "2026-11-21T01:00:00Z"
READY = holds("Ready", "Serving", "it serves")


def test_setting_it_again_changes_nothing() -> None:
    once = with_conditions([], [READY], generation=1, now=EARLY)
    assert once == with_conditions(once, [READY], generation=1, now=LATE)
    assert once[0]["observedGeneration"] == 1


def test_its_time_moves_only_when_its_status_flips() -> None:
    once = with_conditions([], [READY], generation=1, now=EARLY)
    (same,) = with_conditions(once, [holds("Ready", "Waking", "m")], generation=2, now=LATE)
    assert (same["reason"], same["lastTransitionTime"]) == ("Waking", EARLY)
    (flipped,) = with_conditions(once, [fails("Ready", "Gone", "m")], generation=2, now=LATE)
    assert (flipped["status"], flipped["lastTransitionTime"]) == ("False", LATE)


def test_conditions_of_others_stay() -> None:
    theirs = with_conditions([], [unknown("Audited", "Pending", "m")], generation=1, now=EARLY)
    both = with_conditions(theirs, [READY], generation=2, now=LATE)
    assert [each["type"] for each in both] == ["Audited", "Ready"]
    assert both[0] == theirs[0]


def test_a_long_message_is_cut() -> None:
    (told,) = with_conditions([], [fails("Ready", "Long", "x" * 9999)], generation=1, now=EARLY)
    assert len(told["message"]) == MAX_MESSAGE


def test_one_of_an_object() -> None:
    body = {"status": {"conditions": with_conditions([], [READY], generation=1, now=EARLY)}}
    assert condition_of(body, "Ready")["reason"] == "Serving"
    assert condition_of(body, "Degraded") == condition_of({}, "Ready") == {}
