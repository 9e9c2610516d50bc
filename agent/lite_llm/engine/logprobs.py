"""How likely the model held tokens, before penalties and temperature. Legend: V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lite_llm.engine.sampling import Floats
from lite_llm.kernels.vocabulary import rate


@dataclass(frozen=True)
class Logprobs:
    """Of one token, with the likeliest ones beside it; natural logarithms."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """Likeliest first, equal ones by id."""


def logprobs_of(logits_V: Floats, token: int, count: int) -> Logprobs:
    """Of ``token`` and of the ``count`` likeliest; ``logits_V`` is float32."""
    return rated([torch.from_numpy(logits_V)], [token], [count])[0]


def rated(rows: Sequence[Tensor], tokens: Sequence[int], counts: Sequence[int]) -> list[Logprobs]:
    """Of each row's token, and of its likeliest ones; rows are float32 and on the CPU."""
    return [
        Logprobs(token, rating.logprob, rating.top)
        for token, rating in zip(tokens, rate(rows, tokens, counts), strict=True)
    ]
