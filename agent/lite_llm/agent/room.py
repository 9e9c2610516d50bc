"""Who gets the node's memory and who gives way: pure decisions on a frozen view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lite_llm.contracts import ModelRef, format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupant:
    """A model that has memory now."""

    ref: ModelRef
    num_bytes: int
    last_use: float
    """Seconds on any clock, the same for all."""
    is_idle: bool = True
    """Nobody would notice if it left."""
    is_pinned: bool = False
    is_leaving: bool = False
    """Its memory comes back soon."""


@dataclass(frozen=True, slots=True)
class Fits:
    """There is room now."""


@dataclass(frozen=True, slots=True)
class MakeRoom:
    """These give way, and then there is room."""

    leaving: tuple[ModelRef, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do but to wait."""

    reason: str
    """Words for people."""


@dataclass(frozen=True, slots=True)
class Never:
    """Nothing that could leave would be enough."""

    reason: str


Decision = Fits | MakeRoom | Wait | Never


def decide(
    num_bytes: int, *, budget_bytes: int, occupants: Sequence[Occupant], patient: bool
) -> Decision:
    """What to do for a model that wants ``num_bytes``.

    Idle models leave, the least recently used first; those at work only once the wait has lasted
    too long (``patient`` is false), for else one busy model could keep others away for ever. None
    leaves in vain: either enough of them do, or none.
    """
    used = sum(occupant.num_bytes for occupant in occupants)
    missing = used + num_bytes - budget_bytes
    if missing <= 0:
        return Fits()
    staying = (each for each in occupants if each.is_pinned and not each.is_leaving)
    pinned = sum(occupant.num_bytes for occupant in staying)
    if num_bytes > budget_bytes or pinned + num_bytes > budget_bytes:
        beside = f" beside {format_size(pinned)} of pinned models" if pinned else ""
        budget = format_size(budget_bytes)
        return Never(f"{format_size(num_bytes)} of memory do not fit into {budget}{beside}")
    missing -= sum(occupant.num_bytes for occupant in occupants if occupant.is_leaving)
    leaving: list[Occupant] = []
    for occupant in sorted(occupants, key=lambda each: (not each.is_idle, each.last_use, each.ref)):
        if missing <= 0:
            break
        may_leave = not occupant.is_pinned and not occupant.is_leaving
        if may_leave and (occupant.is_idle or not patient):
            leaving.append(occupant)
            missing -= occupant.num_bytes
    if missing <= 0 and leaving:
        return MakeRoom(tuple(occupant.ref for occupant in leaving))
    others = ", ".join(str(each.ref) for each in occupants if each.is_leaving or not each.is_pinned)
    return Wait(f"waiting for {format_size(num_bytes)} of memory, in use by {others}")
