"""Experts that can't be had: what those rows are told that chose them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lite_llm.contracts.errors import Corrupt, Internal, LiteLLMError, StoreUnavailable
from lite_llm.experts.packing import Packing
from lite_llm.experts.selection import OfRows


class ExpertCorrupt(Corrupt, OfRows):
    """An expert's stored bytes are not as promised, wherever they were looked for."""


class ExpertAway(StoreUnavailable, OfRows):
    """An expert lies where nobody answers."""


def lost_rows(layer: int, packing: Packing, lost: Mapping[int, LiteLLMError]) -> OfRows:
    """The error for those who chose an expert that could not be had; ``lost``: by place."""
    place, cause = next(iter(lost.items()))
    kind = ExpertCorrupt if isinstance(cause, Corrupt) else ExpertAway
    others = len(lost) - 1
    error = kind(
        f"expert {packing.experts[place]} of layer {layer} can't be had"
        f"{f', nor can {others} others' if others else ''}: {cause.message}",
        where=f"layer {layer}, expert {packing.experts[place]}; {cause.where}",
        remedy=cause.remedy,
    )
    error.rows = tuple(_rows(packing, lost))
    return error


def as_error(error: BaseException) -> LiteLLMError:
    """What a thread died of, in our words, without the frames that would keep memory alive."""
    behind: BaseException | None = error
    while behind is not None:
        behind.__traceback__ = None
        behind = behind.__cause__ or behind.__context__
    return error if isinstance(error, LiteLLMError) else Internal(str(error), where="experts")


def _rows(packing: Packing, places: Mapping[int, object]) -> Iterable[int]:
    return sorted(set(packing.tokens_S[packing.rows_of(list(places))].tolist()))
