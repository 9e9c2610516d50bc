"""What each rule thinks little of, and odds that are what happened."""

from __future__ import annotations

import numpy as np
import pytest

from lite_llm.experts.policies import (
    LEAST_STALE,
    LFRU,
    LFU,
    LRU,
    NEAREST,
    PUBLISHED,
    History,
    Policy,
)
from lite_llm.experts.policies_odds import Odds

NOBODY = np.empty(0, np.int64)


def history_of(*visits: tuple[int, list[int]], layers: int = 2) -> History:
    """Of layers with 4 experts each: 0 to 3, 4 to 7, and so on."""
    history = History([4] * layers, learns=True)
    for layer, experts in visits:
        history.visit(layer, np.array(experts), NOBODY)
    return history


def least(policy: Policy, history: History, *experts: int) -> int:
    candidates = np.array(experts)
    worth = policy.worth(history, candidates)
    assert np.isfinite(worth).all()
    return int(candidates[worth.argmin()])


def test_recency_and_frequency() -> None:
    history = history_of((0, [0, 1]), (0, [0]), (0, [0]), (0, [2]))
    assert least(LRU, history, 0, 1, 2) == 1
    assert least(LFU, history, 0, 2) == 2
    assert least(PUBLISHED, history, 0, 1) == 1
    assert least(LFRU, history, 0, 1) == 1


def test_frequency_counts_only_the_stay() -> None:
    history = history_of((0, [0, 1]), (0, [0]), (0, [0]), (0, [1]))
    history.enter(np.array([0]))
    assert least(LFU, history, 0, 1) == 0


def test_what_a_prefetch_expects_counts_as_recent_until_its_layer_came() -> None:
    history = history_of((0, [0]), (0, [1]), (0, [2]))
    history.expect(np.array([0]), 0.9)
    assert least(LRU, history, 0, 1) == 1
    assert least(NEAREST, history, 0, 1) == 1
    history.visit(0, np.array([3]), NOBODY)
    assert least(LRU, history, 0, 1) == 0


def test_the_stale_leave_first_then_what_is_needed_last() -> None:
    history = history_of((0, [0, 1]), (1, [4]), (2, [8]), (0, [0]), (1, [5]), layers=3)
    assert least(LEAST_STALE, history, 0, 1, 8) == 1  # layer 0 came again without it
    assert least(LEAST_STALE, history, 0, 5, 8) == 5  # its layer has just run
    assert least(LEAST_STALE, history, 0, 8) == 0


def test_prompts_leave_no_odds() -> None:
    history = history_of((0, [0]))
    assert history.odds is not None
    before = history.odds.of(np.arange(8))
    history.visit(0, NOBODY, np.array([1, 2]))
    assert np.array_equal(history.odds.of(np.arange(8)), before)
    assert history.last_use_N[1] == 2
    assert history.last_decode_N[1] == 0


def test_odds_are_what_happened() -> None:
    """An expert that comes every other time, one that always comes, and one that never does."""
    odds = Odds([slice(0, 3)])
    for number in range(400):
        odds.visit(0, np.array([0, 1] if number % 2 else [1]))
    soon, always, never = odds.of(np.arange(3)).tolist()
    assert soon < 0.05  # it has just been here
    assert always > 0.95
    assert 0.0 < never < 0.01
    odds.visit(0, np.array([1]))
    assert odds.of(np.array([0]))[0] > 0.9


def test_the_nearest_layer_s_experts_stay() -> None:
    history = history_of(*[(layer, [4 * layer]) for _ in range(50) for layer in range(3)], layers=3)
    assert least(NEAREST, history, 0, 4, 8) == 8
    assert least(NEAREST, history, 0, 4) == 4


def test_counts_are_halved_so_that_they_do_not_grow_stiff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lite_llm.experts.policies_odds.FORGET_AFTER", 64)
    odds = Odds([slice(0, 2)])
    for _ in range(1000):
        odds.visit(0, np.array([0]))
    assert odds.of(np.array([0]))[0] > 0.8
    for _ in range(60):
        odds.visit(0, np.array([1]))
    assert odds.of(np.array([1]))[0] > 0.8
