"""Choosing a token: the same logits, seed and position give the same token."""

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch

from lite_llm.contracts.errors import Internal, InvalidRequest
from lite_llm.engine import Sampling, choose

LOGITS_V = torch.tensor([0.5, 3.0, -1.0, 2.0, 1.0])
MANY = 600


def counts(sampling: Sampling) -> Counter[int]:
    return Counter(choose(LOGITS_V, sampling, position=position) for position in range(MANY))


def test_greedy_takes_the_largest_and_the_first_of_equals() -> None:
    assert choose(LOGITS_V, Sampling(), position=0) == 1
    assert choose(torch.tensor([1.0, 7.0, 7.0]), Sampling(), position=0) == 1


def test_frequencies_follow_the_softmax() -> None:
    found = counts(Sampling(temperature=1.5, seed=3))
    expected_V = (LOGITS_V / 1.5).softmax(dim=-1)
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
    assert {choose(torch.zeros(5), sampling, position=at) for at in range(200)} == {0, 1}


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    likelihoods = LOGITS_V.softmax(dim=-1).sort(descending=True)
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
    logits_V = torch.tensor([-math.inf, 0.0, -math.inf, 0.0])
    drawn = {choose(logits_V, Sampling(temperature=3), position=at) for at in range(200)}
    assert drawn == {1, 3}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_an_error(temperature: float) -> None:
    logits_V = torch.tensor([0.0, math.nan])
    with pytest.raises(Internal, match="logits at position 7 are not numbers"):
        choose(logits_V, Sampling(temperature=temperature), position=7)


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
    ],
)
def test_wrong_parameters_are_named(field: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=f"{field} is") as refusal:
        Sampling(**{field: value})  # type: ignore[arg-type]  # top_k is an int in its own case
    assert refusal.value.where == field
