"""The next token of each row of a batch. Legend: R rows, V vocabulary.

Each row is looked at by itself: what a sequence gets depends on nothing else in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lite_llm.contracts.errors import Internal
from lite_llm.engine.logprobs import Logprobs, logprobs_of
from lite_llm.engine.sampling import adjusted, choose
from lite_llm.engine.sequence import Sequence


@dataclass(frozen=True)
class Choice:
    """A token, and what the model thought of it where that is asked for."""

    token: int
    logprobs: Logprobs | None = None


def likeliest(logits_RV: Tensor) -> list[int | None]:
    """The likeliest token of each row, the smallest of equals; None for a row of no use."""
    # Largest values are exact, and NaN wins: one look finds all that is wrong with a row.
    usable = torch.isfinite(logits_RV.amax(dim=-1)).tolist()
    tokens = logits_RV.argmax(dim=-1).tolist()
    return [token if good else None for token, good in zip(tokens, usable, strict=True)]


def select(sequence: Sequence, logits_V: Tensor, best: int | None) -> Choice | Internal:
    """The next token of ``sequence``, or why there is none; ``best`` is its :func:`likeliest`."""
    if best is None:
        return _unusable(sequence)
    sampling, count = sequence.sampling, sequence.group.request.logprobs
    changed = bool(sequence.banned or sampling.logit_bias or sequence.history is not None)
    if sampling.greedy and not changed and count is None:
        return Choice(best)  # the common case: nothing leaves the device
    row_V = logits_V.cpu().numpy()
    chosen_V = row_V
    if changed:
        chosen_V = adjusted(row_V, sampling, sequence.history, sequence.banned)
        if chosen_V.max() == -torch.inf:
            return _unusable(sequence)
    token = choose(chosen_V, sampling, position=len(sequence.tokens))
    return Choice(token, None if count is None else logprobs_of(row_V, token, count))


def _unusable(sequence: Sequence) -> Internal:
    return Internal(
        f"the logits at position {len(sequence.tokens)} are not numbers, or allow no token",
        where="logits",
        remedy="check the checkpoint's weights, and that its dtype can hold its activations",
    )
