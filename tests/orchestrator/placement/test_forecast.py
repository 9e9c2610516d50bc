"""What is expected of arrivals: steady, growing, and with clocks that jump."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.placement.forecast import MOST, Arrivals


def seen(counts: list[int], every: float = 2.0) -> Arrivals:
    arrivals = Arrivals().after(0, 1000.0)
    for number, count in enumerate(counts, 1):
        arrivals = arrivals.after(count, 1000.0 + number * every)
    return arrivals


def test_what_is_steady_stays() -> None:
    arrivals = seen([20] * 300)
    assert arrivals.per_second == pytest.approx(10, rel=0.01)
    assert arrivals.ahead() == pytest.approx(10, rel=0.02)


def test_what_grows_is_seen_coming() -> None:
    arrivals = seen([number for number in range(150)])  # half a request a second more each window
    assert arrivals.per_second == pytest.approx(74.5, rel=0.1)
    assert arrivals.ahead(20) == pytest.approx(74.5 + 5, rel=0.1)


def test_what_ends_is_forgotten_and_never_below_nothing() -> None:
    arrivals = seen([100] * 50 + [0] * 120)
    assert arrivals.per_second < 1
    assert 0 <= arrivals.ahead() < 1


def test_windows_of_other_lengths_say_the_same() -> None:
    assert seen([10] * 400, every=1.0).per_second == pytest.approx(
        seen([50] * 80, every=5.0).per_second, rel=0.02
    )


def test_a_clock_that_is_set_back_counts_nothing_twice() -> None:
    arrivals = seen([20] * 100)
    back = arrivals.after(10_000, 500.0)
    assert (back.per_second, back.at) == (arrivals.per_second, 500.0)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0.001, 1e6)), max_size=30))
def test_nothing_makes_it_negative_or_boundless(windows: list[tuple[int, float]]) -> None:
    arrivals, now = Arrivals(), 1e9
    for count, seconds in windows:
        now += seconds
        arrivals = arrivals.after(count, now)
        assert arrivals.per_second >= 0
        assert 0 <= arrivals.ahead() <= MOST * arrivals.per_second
