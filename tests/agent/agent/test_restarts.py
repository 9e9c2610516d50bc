"""Crashes in a row wait longer and longer, and then there is an end."""

import pytest

from lite_llm.agent.restarts import RestartPolicy, Restarts

POLICY = RestartPolicy(
    first_seconds=1.0, longest_seconds=4.0, most_crashes=5, open_seconds=30.0, stable_seconds=60.0
)


@pytest.fixture
def restarts() -> Restarts:
    return Restarts(POLICY)


def test_waits_double_and_the_breaker_opens(restarts: Restarts) -> None:
    assert [restarts.crashed(float(now)) for now in range(5)] == [1.0, 2.0, 4.0, 4.0, None]
    assert restarts.words(4.0) == "crashed 5 times in 4 s"
    assert restarts.closed_in(14.0) == 20.0


def test_the_breaker_closes_for_one_attempt(restarts: Restarts) -> None:
    for now in range(5):
        restarts.crashed(float(now))
    assert restarts.closed_in(34.0) == 0.0
    assert restarts.closed_in(34.0) == 0.0
    assert restarts.crashed(35.0) is None
    assert restarts.closed_in(35.0) == 30.0


def test_who_served_long_enough_starts_with_a_clean_slate(restarts: Restarts) -> None:
    for now in range(4):
        restarts.crashed(float(now))
    restarts.served(10.0)
    assert restarts.crashed(75.0) == 1.0


def test_who_served_briefly_does_not(restarts: Restarts) -> None:
    assert restarts.crashed(0.0) == 1.0
    restarts.served(1.0)
    assert restarts.crashed(2.0) == 2.0


def test_it_stays_closed_while_all_is_well(restarts: Restarts) -> None:
    assert restarts.closed_in(0.0) == 0.0
    assert restarts.crashed(1.0) == 1.0
