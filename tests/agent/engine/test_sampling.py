"""Choosing a token: the same logits, seed and position give the same token."""

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.contracts.errors import InvalidRequest
from lite_llm.engine import Sampling
from lite_llm.engine.sampling import Floats, History, adjusted
from lite_llm.kernels.vocabulary import draw

LOGITS_V = np.array([0.5, 3.0, -1.0, 2.0, 1.0], np.float32)
MANY = 600


def choose(logits_V: Floats, sampling: Sampling, *, position: int) -> int:
    row_V = torch.from_numpy(logits_V.astype(np.float32))
    return draw([row_V], [sampling.chance(position)])[0]


def counts(sampling: Sampling) -> Counter[int]:
    return Counter(choose(LOGITS_V, sampling, position=position) for position in range(MANY))


def test_frequencies_follow_the_softmax() -> None:
    found = counts(Sampling(temperature=1.5, seed=3))
    expected_V = torch.tensor(LOGITS_V / 1.5).softmax(dim=-1)
    for token, likelihood in enumerate(expected_V.tolist()):
        spread = math.sqrt(MANY * likelihood * (1 - likelihood))
        assert abs(found[token] - MANY * likelihood) < 5 * spread


def test_the_same_seed_and_position_give_the_same_token() -> None:
    one = [choose(LOGITS_V, Sampling(temperature=2, seed=9), position=at) for at in range(50)]
    again = [
        choose(LOGITS_V, Sampling(temperature=2, seed=9), position=at) for at in reversed(range(50))
    ]
    other = [choose(LOGITS_V, Sampling(temperature=2, seed=10), position=at) for at in range(50)]
    assert one == again[::-1]
    assert one != other


@pytest.mark.parametrize(("top_k", "kept"), [(1, {1}), (2, {1, 3}), (9, {0, 1, 2, 3, 4})])
def test_top_k_keeps_the_likeliest(top_k: int, kept: set[int]) -> None:
    assert set(counts(Sampling(temperature=5, top_k=top_k))) == kept


def test_top_k_among_equals_keeps_the_smaller_ids() -> None:
    sampling = Sampling(temperature=1, top_k=2)
    assert {choose(np.zeros(5), sampling, position=at) for at in range(200)} == {0, 1}


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    likelihoods = torch.tensor(LOGITS_V).softmax(dim=-1).sort(descending=True)
    reached = likelihoods.values.cumsum(dim=-1).tolist()
    order = likelihoods.indices.tolist()
    below = [0.0, *reached]
    for number, (low, high) in enumerate(pairwise(below), start=1):
        middle = min((low + high) / 2, 0.99999)
        assert set(counts(Sampling(temperature=1, top_p=middle))) <= set(order[:number])
    assert set(counts(Sampling(temperature=1, top_p=1e-6))) == {1}


@pytest.mark.parametrize("temperature", [1e-30, 1e-6])
def test_a_tiny_temperature_is_as_good_as_greedy(temperature: float) -> None:
    assert set(counts(Sampling(temperature=temperature))) == {1}


def test_impossible_tokens_are_never_drawn() -> None:
    logits_V = np.array([-math.inf, 0.0, -math.inf, 0.0])
    drawn = {choose(logits_V, Sampling(temperature=3), position=at) for at in range(200)}
    assert drawn == {1, 3}


def test_min_p_is_a_share_of_the_likeliest() -> None:
    # Shares: 0.08, 1, 0.02, 0.37, 0.14.
    assert set(counts(Sampling(min_p=0.1))) == {1, 3, 4}
    assert set(counts(Sampling(min_p=0.99))) == {1}


def filtered_by_definition(logits_V: Floats, sampling: Sampling) -> set[int]:
    """Tokens that may be drawn, by sorting everything."""
    scores_V = (logits_V - logits_V.max()) / sampling.temperature
    order = np.argsort(-scores_V, kind="stable")
    likelihoods = np.exp(scores_V[order].astype(np.float64))
    likelihoods[likelihoods < sampling.min_p] = 0
    likelihoods = likelihoods[: sampling.top_k]
    count = int((likelihoods.cumsum() < sampling.top_p * likelihoods.sum()).sum()) + 1
    return set(order[: min(count, int((likelihoods > 0).sum()))].tolist())


@given(
    logits=st.lists(st.integers(-30, 30), min_size=2, max_size=60),
    top_k=st.none() | st.integers(1, 70),
    top_p=st.sampled_from([0.011, 0.31, 0.77, 0.953, 1.0]),
    min_p=st.sampled_from([0.0, 0.013, 0.3]),
)
def test_filters_keep_what_their_definitions_keep(
    logits: list[int], top_k: int | None, top_p: float, min_p: float
) -> None:
    logits_V = np.array(logits, np.float32) / 4
    sampling = Sampling(temperature=2, top_k=top_k, top_p=top_p, min_p=min_p)
    allowed = filtered_by_definition(logits_V, sampling)
    drawn = {choose(logits_V, sampling, position=at) for at in range(60)}
    assert drawn <= allowed


def spoken(sampling: Sampling, *tokens: int, prompt: tuple[int, ...] = ()) -> History:
    history = History(sampling, prompt)
    for token in tokens:
        history.add(token)
    return history


def changed(*tokens: int, prompt: tuple[int, ...] = (), **settings: Any) -> list[float]:
    history = spoken(Sampling(**settings), *tokens, prompt=prompt)
    values: list[float] = adjusted(LOGITS_V, history).tolist()
    return values


def test_penalties_follow_their_formulas() -> None:
    said: Any = {"prompt": (0, 1)}
    assert changed(1, 1, 2, repetition_penalty=2, **said) == [0.25, 1.5, -2.0, 2.0, 1.0]
    assert changed(1, 1, 2, presence_penalty=0.5, **said) == [0.5, 2.5, -1.5, 2.0, 1.0]
    assert changed(1, 1, 2, frequency_penalty=0.5, **said) == [0.5, 2.0, -1.5, 2.0, 1.0]
    assert changed(logit_bias=((4, -0.5), (0, 2.0))) == [2.5, 3.0, -1.0, 2.0, 0.5]


@given(
    prompt=st.lists(st.integers(0, 49), max_size=60),
    tokens=st.lists(st.integers(0, 49), max_size=90),
    bias=st.dictionaries(st.integers(0, 49), st.sampled_from([-100.0, -0.5, 3.25]), max_size=20),
    penalties=st.tuples(*[st.sampled_from([0.0, 0.5, -1.25])] * 2),
    repetition=st.sampled_from([1.0, 1.25, 0.5]),
)
def test_bias_and_penalties_come_in_vllms_order(
    prompt: list[int],
    tokens: list[int],
    bias: dict[int, float],
    penalties: tuple[float, float],
    repetition: float,
) -> None:
    presence, frequency = penalties
    logits_V = np.random.default_rng(7).normal(size=50).astype(np.float32)
    expected_V = logits_V.astype(np.float64)
    for token, value in bias.items():
        expected_V[token] += value
    for token in {*prompt, *tokens}:
        factor = 1 / repetition if expected_V[token] > 0 else repetition
        expected_V[token] *= factor
    for token, times in Counter(tokens).items():
        expected_V[token] -= frequency * times + presence
    settings = Sampling(
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        logit_bias=tuple(bias.items()),
    )
    found_V = adjusted(logits_V, spoken(settings, *tokens, prompt=tuple(prompt)))
    np.testing.assert_allclose(found_V, expected_V, rtol=1e-6, atol=1e-6)
    assert found_V.dtype == np.float32


@pytest.mark.parametrize("penalty", [1e-40, 1e-45, 1e38])
def test_extreme_penalties_leave_numbers(penalty: float) -> None:
    values = changed(2, prompt=(0, 1), repetition_penalty=penalty)
    assert all(map(math.isfinite, values))
    logits_V, sampling = np.array(values), Sampling(temperature=1, top_p=0.9)
    drawn = {choose(logits_V, sampling, position=at) for at in range(50)}
    assert drawn <= ({0, 1} if penalty < 1 else {0, 1, 3, 4})


def test_bias_and_bans_change_who_wins() -> None:
    assert int(np.argmax(changed(logit_bias=((2, 10.0), (1, -100.0))))) == 2
    without = adjusted(LOGITS_V, None, banned=[1, 3])
    assert {choose(without, Sampling(temperature=9), position=at) for at in range(200)} == {0, 2, 4}
    assert LOGITS_V.tolist() == [0.5, 3.0, -1.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_p", math.nan),
        ("top_k", 0),
        ("top_k", -1),
        ("min_p", 1.0),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
        ("presence_penalty", 2.5),
        ("frequency_penalty", math.nan),
        ("logit_bias", ((3, 101.0),)),
    ],
)
def test_wrong_parameters_are_named(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=f"{field} is") as refusal:
        Sampling(**{field: value})  # type: ignore[arg-type]  # each has its own type
    assert refusal.value.where == field
