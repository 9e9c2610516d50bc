"""The state machine of SPEC-010: total, and true to its invariants on every walk."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.contracts import ModelEvent, ModelState, step
from lite_llm.contracts.errors import InvalidTransition
from lite_llm.contracts.states import TRANSITIONS, advanced
from lite_llm.proto.v1 import model_pb2

INIT, WARM, ACTIVE, EXPANDING, FROZEN, RECOVERING = ModelState
PAIRS = list(product(ModelState, ModelEvent))

# SPEC-010 in one line an arrow; "any -> Recovering" is checked for every state by itself.
ARROWS = {
    (INIT, WARM),
    (WARM, ACTIVE),
    (ACTIVE, EXPANDING),
    (EXPANDING, ACTIVE),
    (ACTIVE, FROZEN),
    (FROZEN, ACTIVE),
    (FROZEN, WARM),
    (RECOVERING, WARM),
}


def test_the_arrows_are_those_of_the_specification() -> None:
    drawn = {(at, to) for (at, event), to in TRANSITIONS.items() if event is not ModelEvent.FAILED}
    assert drawn == ARROWS


@pytest.mark.parametrize("state", ModelState)
def test_failure_leads_to_recovering_from_everywhere(state: ModelState) -> None:
    assert step(state, ModelEvent.FAILED).state is RECOVERING


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_every_event_has_an_answer_in_every_state(state: ModelState, event: ModelEvent) -> None:
    answer = step(state, event)
    if (state, event) in TRANSITIONS:
        assert answer.refused == ""
        assert advanced(state, event) is answer.state
    else:
        assert answer.state is state
        assert event in answer.refused
        assert state in answer.refused
        assert ModelEvent.FAILED in answer.refused
        with pytest.raises(InvalidTransition, match=answer.refused):
            advanced(state, event)


@given(st.lists(st.sampled_from(ModelEvent), max_size=60))
def test_no_walk_breaks_an_invariant(events: list[ModelEvent]) -> None:
    state, resident, loaded = INIT, False, False
    for event in events:
        before, state = state, step(state, event).state
        # What the agent would know: which weights are here, by the events that were accepted.
        if before is not state or event is ModelEvent.FAILED:
            match event:
                case ModelEvent.LOADED | ModelEvent.RECOVERED:
                    resident = True
                case ModelEvent.ACTIVATED:
                    loaded = True
                case ModelEvent.RELEASED:
                    loaded = False
                case ModelEvent.FAILED:
                    resident = loaded = False
        assert not state.takes_requests or (resident and loaded)
        assert not state.runs_requests or (resident and loaded)
        assert not loaded or resident
        assert resident == (state not in (INIT, RECOVERING))
        assert before is state or (before, state) in ARROWS or state is RECOVERING
        if before is RECOVERING:
            assert state in (RECOVERING, WARM)
        if state.takes_requests and not before.takes_requests:
            assert before in (WARM, FROZEN)


def test_every_state_is_reached_and_none_is_a_trap() -> None:
    def reachable(start: ModelState) -> set[ModelState]:
        seen, found = set[ModelState](), {start}
        while found > seen:
            seen |= found
            found = found | {step(state, event).state for state in found for event in ModelEvent}
        return found

    assert reachable(INIT) == set(ModelState)
    assert all(ACTIVE in reachable(state) for state in ModelState)
    assert all(INIT not in reachable(state) for state in set(ModelState) - {INIT})


def test_who_takes_and_who_runs_requests() -> None:
    assert [state for state in ModelState if state.takes_requests] == [ACTIVE, EXPANDING]
    assert [state for state in ModelState if state.runs_requests] == [ACTIVE, EXPANDING, FROZEN]


def test_words_and_order_are_those_of_the_protocol() -> None:
    ours = [
        "MODEL_STATE_UNSPECIFIED",
        *(f"MODEL_STATE_{state.value.upper()}" for state in ModelState),
    ]
    assert model_pb2.ModelState.keys() == ours
    assert model_pb2.ModelState.values() == list(range(len(ours)))
    assert [state.name for state in ModelState] == [state.value.upper() for state in ModelState]
