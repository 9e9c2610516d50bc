"""By what a token is chosen: settings, and changes of single logits. Legend: V vocabulary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lite_llm.contracts.errors import InvalidRequest
from lite_llm.kernels.vocabulary import Chance

Floats = NDArray[np.floating]
_MOST = float(np.finfo(np.float32).max)


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
    def changes(self) -> bool:
        """Whether logits of single tokens are changed."""
        return self.penalises or bool(self.logit_bias)

    def chance(self, position: int) -> Chance:
        """By what the token at ``position`` is drawn."""
        return Chance(self.seed, position, self.temperature, self.top_k, self.min_p, self.top_p)

    @property
    def penalises(self) -> bool:
        """Whether what was said before changes what comes."""
        penalties = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty)
        return penalties != (1.0, 0.0, 0.0)


class History:
    """What a sequence's past and its request do to the logits of single tokens.

    Bias comes first, then penalties: vLLM's order, so that the same request means the same here.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self._sampling = sampling
        bias = dict(sampling.logit_bias)
        seen = frozenset(prompt) if sampling.repetition_penalty != 1 else frozenset()
        tokens = [*bias, *(seen - bias.keys())]
        self._place_by_token = {token: place for place, token in enumerate(tokens)}
        # One entry a token: its id, its bias, whether it was seen, how often the answer has it.
        self._entries = np.zeros(
            2 * len(tokens) + 16, [("id", "i8"), ("bias", "f8"), ("seen", "?"), ("times", "f8")]
        )
        used = self._entries[: len(tokens)]
        used["id"] = tokens
        used["bias"][: len(bias)] = list(bias.values())
        used["seen"] = [token in seen for token in tokens]

    def add(self, token: int) -> None:
        """``token`` is part of the answer."""
        if not self._sampling.penalises:
            return
        place = self._place_by_token.setdefault(token, len(self._place_by_token))
        if place == len(self._entries):
            self._entries = np.concatenate([self._entries, np.zeros_like(self._entries)])
        entry = self._entries[place]
        entry["id"], entry["seen"], entry["times"] = token, True, entry["times"] + 1

    def change(self, logits_V: Floats) -> None:
        """In place; in double precision, rounded once."""
        entries, sampling = self._entries[: len(self._place_by_token)], self._sampling
        values = logits_V[entries["id"]].astype(np.float64) + entries["bias"]
        if (penalty := sampling.repetition_penalty) != 1:
            penalised = np.where(values > 0, values / penalty, values * penalty)
            values = np.where(entries["seen"], penalised, values)
        values -= sampling.frequency_penalty * entries["times"]
        values -= sampling.presence_penalty * (entries["times"] > 0)
        # An extreme penalty would make them infinite, and what infinities differ by is no number.
        logits_V[entries["id"]] = np.clip(values, -_MOST, _MOST)


def adjusted(logits_V: Floats, history: History | None, banned: Sequence[int] = ()) -> Floats:
    """A copy with the logits that a token is chosen by; ``banned`` ones have no chance."""
    changed_V = logits_V.copy()
    if history is not None:
        history.change(changed_V)
    changed_V[list(banned)] = -math.inf
    return changed_V


def _check(field: str, value: float, good: bool, remedy: str) -> None:
    if not (math.isfinite(value) and good):
        raise InvalidRequest(f"{field} is {value}", where=field, remedy=f"use {remedy}")
