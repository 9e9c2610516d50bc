"""Who gives way: decided from what is known, in every case there is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.agent.room import Decision, Fits, MakeRoom, Never, Occupant, Wait, decide
from lite_llm.contracts import ModelRef


def model(name: str) -> ModelRef:
    return ModelRef("default", name)


A = Occupant(ref=model("a"), num_bytes=40, last_use=1.0)
B = Occupant(ref=model("b"), num_bytes=40, last_use=2.0)


def decided(num_bytes: int, *occupants: Occupant, patient: bool = True) -> Decision:
    return decide(num_bytes, budget_bytes=100, occupants=occupants, patient=patient)


def test_what_fits() -> None:
    assert decided(100) == Fits()
    assert decided(20, A, B) == Fits()


def test_the_least_recently_used_gives_way() -> None:
    assert decided(30, A, B) == MakeRoom((A.ref,))
    assert decided(30, replace(A, last_use=3.0), B) == MakeRoom((B.ref,))
    assert decided(90, A, B) == MakeRoom((A.ref, B.ref))


def test_nobody_leaves_in_vain() -> None:
    busy = replace(B, is_idle=False)
    assert decided(90, A, busy) == Wait(
        "waiting for 90 B of memory, in use by default/a, default/b"
    )


def test_a_long_wait_takes_from_those_at_work_too() -> None:
    busy = replace(A, is_idle=False)
    assert decided(30, busy, B, patient=False) == MakeRoom((B.ref,))
    assert decided(90, busy, B, patient=False) == MakeRoom((B.ref, A.ref))


def test_those_that_leave_already_are_counted() -> None:
    leaving = replace(A, is_leaving=True)
    assert isinstance(decided(60, leaving, B), Wait)
    assert decided(90, leaving, B) == MakeRoom((B.ref,))


def test_pins() -> None:
    pinned = replace(A, is_pinned=True)
    assert decided(30, pinned, B) == MakeRoom((B.ref,))
    assert decided(61, pinned, B) == Never(
        "61 B of memory do not fit into 100 B beside 40 B of pinned models"
    )
    assert decided(101) == Never("101 B of memory do not fit into 100 B")
    unloading = replace(pinned, is_leaving=True)
    assert decided(61, unloading) == Wait("waiting for 61 B of memory, in use by default/a")


OCCUPANTS = st.lists(
    st.builds(
        Occupant,
        ref=st.sampled_from([model(f"m{number}") for number in range(6)]),
        num_bytes=st.integers(0, 60),
        last_use=st.floats(0, 10),
        is_idle=st.booleans(),
        is_pinned=st.booleans(),
        is_leaving=st.booleans(),
    ),
    unique_by=lambda each: each.ref,
)


@pytest.mark.parametrize("patient", [True, False])
@given(num_bytes=st.integers(0, 120), occupants=OCCUPANTS)
def test_what_holds_of_every_decision(
    patient: bool, num_bytes: int, occupants: list[Occupant]
) -> None:
    by_ref = {each.ref: each for each in occupants}
    used = sum(each.num_bytes for each in occupants)
    match decided(num_bytes, *occupants, patient=patient):
        case Fits():
            assert used + num_bytes <= 100
        case MakeRoom(leaving):
            gone = [by_ref[ref] for ref in leaving]
            assert not any(each.is_pinned or each.is_leaving for each in gone)
            assert not patient or all(each.is_idle for each in gone)
            back = [each for each in occupants if each.is_leaving or each in gone]
            assert used - sum(each.num_bytes for each in back) + num_bytes <= 100
            assert used + num_bytes > 100
        case Wait():
            assert used + num_bytes > 100
        case Never():
            pinned = sum(each.num_bytes for each in occupants if each.is_pinned)
            assert pinned + num_bytes > 100
