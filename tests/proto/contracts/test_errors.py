"""Every error has one row in the one table, and keeps what it says wherever it goes."""

import copy
import http
import math
import pickle
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.contracts import LiteLLMError, errors, outcome_of, outcomes
from lite_llm.contracts.outcomes import (
    OUTCOMES,
    error_class,
    leaves,
    openai_error,
    retry_after_header,
)

FAMILIES = (
    errors.ConfigurationError,
    errors.ResourceError,
    errors.RoutingError,
    errors.RuntimeFault,
)
OURS = list(leaves())
SYSEXITS = {64, 65, 66, 69, 70, 74, 75, 77, 78}
every_error = pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)


def test_the_table_has_exactly_one_row_for_every_error() -> None:
    assert set(OUTCOMES) == set(OURS)


def test_the_families_are_the_four_of_the_specification() -> None:
    assert tuple(LiteLLMError.__subclasses__())[:4] == FAMILIES
    assert all(sum(issubclass(kind, family) for family in FAMILIES) == 1 for kind in OURS)


@every_error
def test_a_row_is_valid(kind: type[LiteLLMError]) -> None:
    outcome = OUTCOMES[kind]
    assert outcome.grpc in grpc.StatusCode.__members__
    assert outcome.grpc not in ("OK", "UNKNOWN")
    assert outcome.http == 499 or http.HTTPStatus(outcome.http) >= 400
    assert outcome.exit in SYSEXITS
    assert outcome.code == outcome.code.lower()
    assert outcome.reason.isidentifier()
    assert outcome.reason[0].isupper()
    assert kind.__doc__


def test_codes_and_reasons_are_unique() -> None:
    rows = OUTCOMES.values()
    assert len({outcome.code for outcome in rows}) == len({outcome.reason for outcome in rows})
    assert len({outcome.reason for outcome in rows}) == len(OURS)


@every_error
def test_a_script_can_tell_from_the_exit_code_whether_to_try_again(
    kind: type[LiteLLMError],
) -> None:
    again = OUTCOMES[kind].exit in (outcomes.TEMPORARY, outcomes.UNAVAILABLE)
    assert again == kind.recoverable


@every_error
def test_wire_and_http_agree_on_whose_fault_it_is(kind: type[LiteLLMError]) -> None:
    outcome = OUTCOMES[kind]
    whose = {
        "INVALID_ARGUMENT": {400},
        "NOT_FOUND": {404},
        "UNAUTHENTICATED": {401},
        "PERMISSION_DENIED": {403},
        "UNAVAILABLE": {503},
        "INTERNAL": {500},
        "DATA_LOSS": {500},
        "DEADLINE_EXCEEDED": {504},
        "CANCELLED": {499},
        "RESOURCE_EXHAUSTED": {429, 503},
        "UNIMPLEMENTED": {400, 501},
        "ABORTED": {409, 503},
        "FAILED_PRECONDITION": {400, 409, 500},
    }
    assert outcome.http in whose[outcome.grpc]


def test_exit_codes_are_apart() -> None:
    names = "USAGE DATA NO_INPUT UNAVAILABLE SOFTWARE INPUT_OUTPUT TEMPORARY NO_PERMISSION CONFIG"
    assert sorted(getattr(outcomes, name) for name in names.split()) == sorted(SYSEXITS)
    assert {outcome.exit for outcome in OUTCOMES.values()} == SYSEXITS


@every_error
def test_the_class_is_found_again_by_its_reason(kind: type[LiteLLMError]) -> None:
    assert error_class(OUTCOMES[kind].reason) is kind


@pytest.mark.parametrize("reason", ["", "TooNew", "invalid_name", "Internal ", "__class__"])
def test_a_newer_versions_reason_is_internal(reason: str) -> None:
    assert error_class(reason) is errors.Internal


def test_what_is_not_ours_counts_as_internal() -> None:
    assert outcome_of(ValueError("x")) is OUTCOMES[errors.Internal]
    assert outcome_of(KeyboardInterrupt()) is OUTCOMES[errors.Internal]
    assert outcome_of(LiteLLMError("x")) is OUTCOMES[errors.Internal]


def test_a_subclass_has_its_parents_row() -> None:
    class Narrower(errors.Corrupt):
        pass

    assert outcome_of(Narrower("x")) is OUTCOMES[errors.Corrupt]
    assert set(leaves()) == set(OURS), "what a room refines needs no row of its own"


@given(
    kind=st.sampled_from(OURS),
    message=st.text(),
    where=st.text(),
    remedy=st.text(),
    retry_after=st.floats(allow_nan=False),
)
def test_an_error_keeps_all_it_says_across_processes(
    kind: type[LiteLLMError], message: str, where: str, remedy: str, retry_after: float
) -> None:
    error = kind(message, where=where, remedy=remedy, retry_after=retry_after)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is kind
        assert vars(twin) == vars(error)
        assert str(twin) == str(error)
        assert twin.args == error.args


def test_an_error_reads_as_a_sentence_with_its_remedy() -> None:
    assert str(errors.Overloaded("the queue is full", remedy="come back")) == (
        "the queue is full: come back"
    )
    assert str(errors.Overloaded("the queue is full")) == "the queue is full"


@every_error
def test_http_answers_have_openais_shape(kind: type[LiteLLMError]) -> None:
    body = openai_error(kind("it broke", where="model", remedy="mend it"))
    assert body == {
        "error": {
            "message": "it broke: mend it",
            "type": OUTCOMES[kind].kind,
            "param": "model",
            "code": OUTCOMES[kind].code,
        }
    }
    assert openai_error(kind("it broke"))["error"]["param"] is None


@pytest.mark.parametrize(
    ("seconds", "header"),
    [(0, None), (-1, None), (0.01, "1"), (1, "1"), (1.5, "2"), (600, "600"), (math.inf, None),
     (math.nan, None), (-math.inf, None)],
)  # fmt: skip
def test_retry_after_is_whole_seconds(seconds: float, header: str | None) -> None:
    assert retry_after_header(errors.Overloaded("full", retry_after=seconds)) == header


def test_outcomes_can_not_be_changed() -> None:
    row: Any = OUTCOMES[errors.Internal]
    with pytest.raises(AttributeError):
        row.http = 200
