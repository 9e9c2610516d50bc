"""Which candidates score highest, in a total order: score, then seeded rank.

Legend: T rows, E candidates, K chosen of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lite_llm.contracts.errors import Internal, InvalidRequest, LiteLLMError
from lite_llm.experts.ties import PRECEDENCE_BITS

_NAMED_ROWS = 8  # as many as a message is readable with


class OfRows(LiteLLMError):
    """``rows`` of the step can't be computed; the others can, in a step without these."""

    rows: tuple[int, ...] = ()


class ScoresNotFinite(Internal, OfRows):
    """A router's scores hold NaN or infinity; ``rows`` of the step are concerned, no others."""


class TooFewExperts(InvalidRequest, OfRows):
    """A TierSet leaves fewer experts than a token needs; ``rows`` of the step are concerned."""


def top(scores_TE: Tensor, precedence_E: Tensor, k: int) -> Tensor:
    """The k best of the last dimension, best first: ``[T, K]``, int64. Scores must not be NaN.

    Keys are unique int64 that ascend with float32 scores and, among equals, with
    ``precedence_E`` (:meth:`Ties.precedence`); zeros of either sign are equal. Being unique, they
    have one greatest set of K in one order, whatever algorithm or device looks for it.
    """
    bits_TE = (scores_TE + 0.0).view(torch.int32)  # -0.0 + 0.0 is 0.0
    ordered_TE = bits_TE ^ (bits_TE >> 31 & 0x7FFFFFFF)  # a negative number's bits descend
    keys_TE = (ordered_TE.long() << PRECEDENCE_BITS) | precedence_E
    return keys_TE.topk(k, dim=-1).indices


def check_finite(scores_TE: Tensor, layer: int) -> None:
    """Raise :class:`ScoresNotFinite` with the rows whose scores no order can be made of."""
    finite_TE = scores_TE.isfinite()
    if not finite_TE.all():
        rows = _rows(~finite_TE)
        error = ScoresNotFinite(
            f"the router of layer {layer} scored {_named(rows)} with NaN or infinity",
            where=f"layer {layer}",
            remedy="check the weights, or use a wider dtype",
        )
        error.rows = rows
        raise error


def check_enough(chosen_TK: Tensor, layer: int, what: str = "experts") -> None:
    """Raise :class:`TooFewExperts` if a score of -inf had to be chosen."""
    missing_TK = chosen_TK.isneginf()
    if missing_TK.any():
        rows, k = _rows(missing_TK), chosen_TK.shape[-1]
        left = k - int(missing_TK.sum(-1).max())
        error = TooFewExperts(
            f"layer {layer} needs {k} {what} for {_named(rows)}, but only {left} are allowed",
            where="lite_llm.tier_set",
            remedy="choose more tiers",
        )
        error.rows = rows
        raise error


def _rows(wrong_TE: Tensor) -> tuple[int, ...]:
    rows: list[int] = wrong_TE.flatten(1).any(-1).nonzero().flatten().tolist()
    return tuple(rows)


def _named(rows: tuple[int, ...]) -> str:
    more = ", …" if len(rows) > _NAMED_ROWS else ""
    return f"row {', '.join(map(str, rows[:_NAMED_ROWS]))}{more}"
