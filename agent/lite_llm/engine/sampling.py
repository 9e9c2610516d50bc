"""From logits to one token. Legend: V vocabulary."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lite_llm.contracts.errors import Internal, InvalidRequest
from lite_llm.engine.philox import uniform


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen; checked when made."""

    temperature: float = 0.0
    """0 is greedy."""
    top_k: int | None = None
    """Only this many likeliest tokens; None: all."""
    top_p: float = 1.0
    """Only the likeliest tokens that together reach this probability."""
    seed: int = 0
    """64 bits. With the position it fixes every random number of the request."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise _invalid("temperature", self.temperature, "use a number from 0 up")
        if not 0 < self.top_p <= 1:
            raise _invalid("top_p", self.top_p, "use a number above 0 and up to 1")
        if self.top_k is not None and self.top_k < 1:
            raise _invalid("top_k", self.top_k, "use at least 1, or leave it out")


def choose(logits_V: Tensor, sampling: Sampling, *, position: int) -> int:
    """The token at ``position`` of its sequence; equal logits are settled by the smaller id."""
    if bool(logits_V.isnan().any()):
        raise Internal(
            f"the logits at position {position} are not numbers",
            where="logits",
            remedy="check the checkpoint's weights, and that its dtype can hold its activations",
        )
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    sorted_V, tokens_V = logits_V.to(torch.float64).sort(descending=True, stable=True)
    sorted_V, tokens_V = sorted_V[: sampling.top_k], tokens_V[: sampling.top_k]
    # The largest is taken away first: a tiny temperature must not overflow to infinity.
    likelihoods_V = ((sorted_V - sorted_V[0]) / sampling.temperature).softmax(dim=-1)
    cumulative_V = likelihoods_V.cumsum(dim=-1)
    if sampling.top_p < 1:
        cumulative_V = cumulative_V[: int((cumulative_V < sampling.top_p).sum()) + 1]
    target = uniform(sampling.seed, position) * float(cumulative_V[-1])
    # Rounding may put the target on the very end: the last token kept is the answer then.
    index = min(int((cumulative_V <= target).sum()), len(cumulative_V) - 1)
    return int(tokens_V[index])


def _invalid(field: str, value: float, remedy: str) -> InvalidRequest:
    return InvalidRequest(f"{field} is {value}", where=field, remedy=remedy)
