"""How likely the model held tokens, before penalties and temperature. Legend: V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lite_llm.engine.sampling import Floats, largest


@dataclass(frozen=True)
class Logprobs:
    """Of one token, with the likeliest ones beside it; natural logarithms."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """Likeliest first, equal ones by id."""


def log_softmax(logits_V: Floats) -> NDArray[np.float64]:
    """In double precision; bits depend on the row alone, not on threads."""
    logits_V = logits_V.astype(np.float64)
    shifted_V = logits_V - logits_V.max()
    result: NDArray[np.float64] = shifted_V - np.log(np.exp(shifted_V).cumsum()[-1])
    return result


def logprobs_of(logits_V: Floats, token: int, count: int) -> Logprobs:
    """Of ``token`` and of the ``count`` likeliest, rounded to float32."""
    logprobs_V = log_softmax(logits_V).astype(np.float32)
    places = largest(logits_V, count).tolist() if count else []
    top = tuple((place, float(logprobs_V[place])) for place in places)
    return Logprobs(token, float(logprobs_V[token]), top)
