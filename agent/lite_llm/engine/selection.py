"""The next token of each row of a batch. Legend: R rows, V vocabulary.

Each row is looked at by itself: what a sequence gets depends on nothing else in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass

import torch
from torch import Tensor

from lite_llm.contracts.errors import Internal
from lite_llm.engine.logprobs import Logprobs, rated
from lite_llm.engine.sampling import adjusted
from lite_llm.engine.sequence import Sequence
from lite_llm.kernels.vocabulary import draw, likeliest

__all__ = ["Choice", "Row", "likeliest", "select"]


@dataclass(frozen=True)
class Choice:
    """A token, and what the model thought of it where that is asked for."""

    token: int
    logprobs: Logprobs | None = None


Row = tuple[Sequence, Tensor, int | None]
"""A sequence, the logits ``[V]`` of its next token, and their :func:`likeliest`."""


def select(ready: Many[Row]) -> list[Choice | Internal]:
    """The next token of each, or why there is none."""
    tokens = [best for _, _, best in ready]
    # In the common case, greedy, nothing leaves the device.
    looked = [
        place for place, (each, _, best) in enumerate(ready) if best is not None and _looks(each)
    ]
    rows = dict(zip(looked, _on_host([ready[place][1] for place in looked]), strict=True))
    drawing = {}
    for place, own_V in rows.items():
        sequence, row_V = ready[place][0], own_V
        if sequence.banned or sequence.history is not None:
            changed_V = adjusted(own_V.numpy(), sequence.history, sequence.banned)
            best = int(changed_V.argmax())
            tokens[place] = best if changed_V[best] > -math.inf else None
            row_V = torch.from_numpy(changed_V)
        if tokens[place] is not None and not sequence.sampling.greedy:
            drawing[place] = row_V
    sequences = [ready[place][0] for place in drawing]
    chances = [each.sampling.chance(len(each.tokens)) for each in sequences]
    for place, token in zip(drawing, draw(list(drawing.values()), chances), strict=True):
        tokens[place] = token
    logprobs = _rated(ready, tokens, rows)
    return [
        _unusable(ready[place][0]) if token is None else Choice(token, logprobs.get(place))
        for place, token in enumerate(tokens)
    ]


def _looks(sequence: Sequence) -> bool:
    """Whether more than the likeliest token is needed."""
    asks = sequence.group.request.logprobs is not None
    changes = sequence.history is not None or bool(sequence.banned)
    return asks or changes or not sequence.sampling.greedy


def _on_host(rows: list[Tensor]) -> list[Tensor]:
    if rows and not rows[0].is_cpu:
        return list(torch.stack(rows).cpu())  # one copy, not one for each
    return rows


def _rated(
    ready: Many[Row], tokens: Many[int | None], rows: Mapping[int, Tensor]
) -> dict[int, Logprobs]:
    """By the model's own logits, where they were asked for."""
    asked = {
        place: (rows[place], token, count)
        for place, token in enumerate(tokens)
        if token is not None and (count := ready[place][0].group.request.logprobs) is not None
    }
    return dict(zip(asked, rated(*zip(*asked.values(), strict=True)), strict=True)) if asked else {}


def _unusable(sequence: Sequence) -> Internal:
    return Internal(
        f"the logits at position {len(sequence.tokens)} are not numbers, or allow no token",
        where="logits",
        remedy="check the checkpoint's weights, and that its dtype can hold its activations",
    )
