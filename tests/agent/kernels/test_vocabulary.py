"""Tokens drawn and rated, against their definitions by sorting in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lite_llm.engine.philox import uniform
from lite_llm.kernels import set_threads
from lite_llm.kernels.vocabulary import Chance, draw, likeliest, rate

Doubles = NDArray[np.float64]


def kept_by_definition(logits_V: Doubles, chance: Chance) -> NDArray[np.int64]:
    """Tokens that may be drawn, ascending."""
    order = np.argsort(-logits_V, kind="stable")[: chance.top_k]
    weights = weights_of(logits_V, chance)[order]
    order, weights = order[weights >= chance.min_p], weights[weights >= chance.min_p]
    if chance.top_p < 1:
        count = int((weights.cumsum() < chance.top_p * weights.sum()).sum()) + 1
        order = order[:count]
    return np.sort(order)


def weights_of(logits_V: Doubles, chance: Chance) -> Doubles:
    weights_V: Doubles = np.exp((logits_V - logits_V.max()) / chance.temperature)
    return weights_V


def drawn_by_definition(logits_V: Doubles, chance: Chance) -> int:
    kept = kept_by_definition(logits_V, chance)
    cumulative = weights_of(logits_V, chance)[kept].cumsum()
    place = cumulative.searchsorted(uniform(chance.seed, chance.position) * cumulative[-1], "right")
    return int(kept[place])


SIZES = [1, 2, 15, 16, 17, 320, 5000]
FILTERS = [
    {},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 4999},
    {"top_p": 0.011},
    {"top_p": 0.77},
    {"top_p": 0.9993},
    {"min_p": 0.013},
    {"top_k": 40, "top_p": 0.9, "min_p": 0.003},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_tokens_are_those_of_the_definition(size: int, filters: dict[str, float]) -> None:
    random = np.random.default_rng(size)
    smooth_V = random.normal(size=size) * 3
    tied_V = random.integers(-9, 6, size) / 2.0  # many equals, -0 and the impossible among them
    tied_V[random.random(size) < 0.1] = -0.0
    tied_V[: size // 3] = -np.inf
    for logits_V in (smooth_V.astype(np.float32), tied_V.astype(np.float32)):
        chances = [
            Chance(seed, position, temperature, **filters)  # type: ignore[arg-type]  # int or float
            for seed, position in ((0, 0), (2**64 - 1, 7), (5, 2**33))
            for temperature in (0.6, 1.0, 2.5)
        ]
        tokens = draw([torch.from_numpy(logits_V)] * len(chances), chances)
        wide_V = logits_V.astype(np.float64)
        assert tokens == [drawn_by_definition(wide_V, chance) for chance in chances]


@given(
    logits=st.lists(st.integers(-20, 20), min_size=1, max_size=80),
    top_k=st.none() | st.integers(1, 90),
    top_p=st.sampled_from([0.011, 0.31, 0.77, 0.953, 1.0]),
    min_p=st.sampled_from([0.0, 0.013, 0.3]),
)
def test_nothing_is_drawn_that_a_filter_takes_away(
    logits: list[int], top_k: int | None, top_p: float, min_p: float
) -> None:
    logits_V = np.array(logits, np.float32) / 2
    chances = [Chance(3, at, 2.0, top_k, min_p, top_p) for at in range(200)]
    drawn = set(draw([torch.from_numpy(logits_V)] * 200, chances))
    assert drawn <= set(kept_by_definition(logits_V.astype(np.float64), chances[0]).tolist())


@pytest.mark.parametrize("temperature", [0.0, 1e-45, 1e-30])
def test_a_temperature_of_almost_nothing_takes_the_largest(temperature: float) -> None:
    row_V = torch.tensor([-3e38, 2.0, 3e38, 2.9e38, -torch.inf])
    assert draw([row_V] * 9, [Chance(1, at, temperature) for at in range(9)]) == [2] * 9


@pytest.mark.parametrize("size", SIZES)
def test_ratings_are_the_logarithm_of_the_softmax(size: int) -> None:
    random = np.random.default_rng(size)
    rows = [random.normal(size=size) * scale for scale in (0.1, 3, 30)]
    rows.append(np.where(random.random(size) < 0.5, np.round(rows[1]), -np.inf))
    rows[3][size // 2] = -0.0
    counts = [0, 1, 20, 100]
    tokens = [0, size // 2, size - 1, size // 2]
    rows32 = [torch.from_numpy(row.astype(np.float32)) for row in rows]
    found = rate(rows32, tokens, counts)
    for row_V, token, count, rating in zip(rows32, tokens, counts, found, strict=True):
        expected_V = row_V.double().log_softmax(dim=-1).numpy()
        order = np.argsort(-(row_V.numpy() + np.float32(0)), kind="stable")[:count].tolist()
        assert [each for each, _ in rating.top] == order
        named = np.array([rating.logprob, *(value for _, value in rating.top)])
        wanted = expected_V[[token, *order]]
        np.testing.assert_allclose(named, wanted, rtol=3e-7, atol=1e-7)


def test_a_token_that_is_almost_certain_is_rated_precisely() -> None:
    row_V = torch.full((50_000,), -20.0)
    row_V[7] = 5.0
    (rating,) = rate([row_V], [7], [0])
    assert rating.logprob == pytest.approx(-np.log1p(49_999 * np.exp(-25.0)), rel=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_the_likeliest_is_the_first_of_equals_in_a_row_of_use(size: int) -> None:
    random = np.random.default_rng(size)
    rows = random.integers(-9, 4, (7, size)).astype(np.float32)
    rows[1] = -np.inf
    rows[2] = -3.5
    rows[3, size // 2] = np.nan
    rows[4, size - 1] = np.inf
    rows[5, : size - 1] = -np.inf
    rows[6] *= -0.0
    expected = [int(row.argmax()) for row in rows]
    wanted = [None if place in (1, 3, 4) else token for place, token in enumerate(expected)]
    rows_RV = torch.from_numpy(rows)
    assert likeliest(rows_RV) == wanted
    assert likeliest(rows_RV.repeat_interleave(2, dim=1)[:, ::2]) == wanted  # not side by side
    assert likeliest(rows_RV[:0]) == []


def test_rows_and_threads_do_not_matter() -> None:
    rows_RV = torch.randn((9, 4096), generator=torch.Generator().manual_seed(1)) * 4
    chances = [Chance(1, at, 1.0, None, 0.0, 0.9) for at in range(9)]
    alone = [draw([row_V], [chance])[0] for row_V, chance in zip(rows_RV, chances, strict=True)]
    rated = [rate([row_V], [5], [3])[0] for row_V in rows_RV]
    for threads in (1, 3):
        set_threads(threads)
        assert draw(list(rows_RV), chances) == alone
        assert rate(list(rows_RV), [5] * 9, [3] * 9) == rated
    set_threads(1)
    assert draw([], []) == []
    assert rate([], [], []) == []
