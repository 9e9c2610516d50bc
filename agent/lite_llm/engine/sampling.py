"""From logits to one token, added up in double precision and one order. Legend: V vocabulary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lite_llm.contracts.errors import InvalidRequest
from lite_llm.engine.philox import uniform

Floats = NDArray[np.floating]

LEAST_TEMPERATURE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen; checked when made."""

    temperature: float = 1.0
    """0 is greedy."""
    top_k: int | None = None
    """Only this many likeliest tokens; None: all."""
    top_p: float = 1.0
    """Only the likeliest tokens that together reach this probability."""
    min_p: float = 0.0
    """Only tokens at least this likely, as a share of the likeliest one's probability."""
    repetition_penalty: float = 1.0
    """Logits of tokens of the prompt or the answer are divided by it, or multiplied below 0."""
    presence_penalty: float = 0.0
    """Taken from the logits of tokens that the answer has."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit once for each time that the answer has it."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Added to the logits of these tokens."""
    seed: int = 0
    """64 bits. With the position it fixes every random number of a sequence."""

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, self.temperature >= 0, "a number from 0 up")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "a number above 0 and up to 1")
        _check("min_p", self.min_p, 0 <= self.min_p < 1, "a number from 0 up and below 1")
        top_k = 1 if self.top_k is None else self.top_k
        _check("top_k", top_k, top_k >= 1, "at least 1, or leave it out")
        penalty = self.repetition_penalty
        _check("repetition_penalty", penalty, penalty > 0, "a number above 0")
        for name in ("presence_penalty", "frequency_penalty"):
            _check(name, getattr(self, name), abs(getattr(self, name)) <= 2, "a number in [-2, 2]")
        for token, bias in self.logit_bias:
            _check("logit_bias", bias, abs(bias) <= 100, f"for token {token} one in [-100, 100]")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken and no random number drawn."""
        return self.temperature == 0

    @property
    def penalises(self) -> bool:
        """Whether what was said before changes what comes."""
        penalties = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty)
        return penalties != (1.0, 0.0, 0.0)


class History:
    """Which tokens a sequence has had, as far as penalties ask."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self._prompt = frozenset(prompt)
        self._counts: Counter[int] = Counter()

    def add(self, token: int) -> None:
        """``token`` is part of the answer."""
        self._counts[token] += 1

    def penalise(self, logits_V: Floats, sampling: Sampling) -> None:
        """Change ``logits_V`` in place."""
        if sampling.repetition_penalty != 1:
            seen = np.fromiter(self._prompt | self._counts.keys(), np.int64)
            logits = logits_V[seen]
            penalty = sampling.repetition_penalty
            logits_V[seen] = np.where(logits > 0, logits / penalty, logits * penalty)
        said = np.fromiter(self._counts.keys(), np.int64, len(self._counts))
        times = np.fromiter(self._counts.values(), np.float64, len(self._counts))
        logits_V[said] -= sampling.frequency_penalty * times + sampling.presence_penalty


def adjusted(
    logits_V: Floats, sampling: Sampling, history: History | None, banned: Sequence[int] = ()
) -> NDArray[np.float64]:
    """The logits that a token is chosen by: bias first, then penalties; ``banned`` have no chance.

    vLLM's order, so that the same request means the same here.
    """
    changed_V = logits_V.astype(np.float64)
    for token, bias in sampling.logit_bias:
        changed_V[token] += bias
    if history is not None:
        history.penalise(changed_V, sampling)
    changed_V[list(banned)] = -math.inf
    return changed_V


def choose(logits_V: Floats, sampling: Sampling, *, position: int) -> int:
    """The token at ``position`` of its sequence; equal logits are settled by the smaller id.

    ``logits_V`` are numbers, at least one of them finite and none +inf.
    """
    if sampling.greedy:
        return int(logits_V.argmax())
    tokens = None
    if sampling.top_k is not None and sampling.top_k < len(logits_V):
        tokens = np.sort(largest(logits_V, sampling.top_k))  # all that follows is short then
        logits_V = logits_V[tokens]
    # The largest is taken away first: a tiny temperature must not overflow to infinity.
    temperature = np.float32(max(sampling.temperature, LEAST_TEMPERATURE))
    with np.errstate(over="ignore"):
        weights_V = np.exp((logits_V - logits_V.max()).astype(np.float32) / temperature)
    if sampling.min_p:
        weights_V[weights_V < sampling.min_p] = 0.0
    if sampling.top_p < 1:
        kept = _nucleus(weights_V, sampling.top_p)
        rest = np.ones(len(weights_V), np.bool_)
        rest[kept] = False
        weights_V[rest] = 0.0
    # One after another, by id: numpy's cumsum has no other order, on any number of threads.
    cumulative_V = weights_V.cumsum(dtype=np.float64)
    target = uniform(sampling.seed, position) * cumulative_V[-1]
    # Rounding may put the target on the very end: the last token kept is the answer then.
    last = int(cumulative_V.searchsorted(cumulative_V[-1]))
    place = min(int(cumulative_V.searchsorted(target, side="right")), last)
    return place if tokens is None else int(tokens[place])


def largest(values_V: Floats, count: int) -> NDArray[np.int64]:
    """Places of the ``count`` largest values, largest first; equal ones by place."""
    count = min(count, len(values_V))
    least = np.partition(values_V, len(values_V) - count)[len(values_V) - count]
    places = np.flatnonzero(values_V >= least)
    return places[np.argsort(-values_V[places], kind="stable")][:count]


def _nucleus(weights_V: Floats, top_p: float) -> NDArray[np.int64]:
    total = float(weights_V.cumsum(dtype=np.float64)[-1])
    # What is left out here can't add up to half of what may be missing: it saves a long sort.
    places = np.flatnonzero(weights_V >= total * (1 - top_p) / (2 * len(weights_V)))
    places = places[np.argsort(-weights_V[places], kind="stable")]
    reached = weights_V[places].cumsum(dtype=np.float64).searchsorted(top_p * total)
    return places[: int(reached) + 1]


def _check(field: str, value: float, good: bool, remedy: str) -> None:
    if not (math.isfinite(value) and good):
        raise InvalidRequest(f"{field} is {value}", where=field, remedy=f"use {remedy}")
