"""Which medium would hold which tier: nearest placement first, each in what is left (SPEC-021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lite_llm.contracts import Medium
from lite_llm.contracts.tiers import Placement

WANTED: Final = {
    Placement.HOT: Medium.GPU,
    Placement.WARM: Medium.DRAM,
    Placement.COLD: Medium.NVME,
    Placement.ARCHIVE: Medium.OBJECT_STORE,
}


@dataclass(frozen=True)
class Room:
    """Bytes of each medium; an object store has no end."""

    gpu: int
    """0: none, and ordinary memory is what is hot."""
    dram: int
    nvme: int


@dataclass(frozen=True)
class Need:
    """Weights that are kept together."""

    name: str
    placement: Placement
    num_bytes: int
    must_be_hot: bool = False
    """Dense weights: every token needs them, so a farther medium would not do."""


@dataclass(frozen=True)
class Home:
    """Where a need would lie."""

    need: Need
    wanted: Medium
    medium: Medium | None
    """None: it fits nowhere."""
    left: int
    """Bytes that the wanted medium had left when its turn came; -1 for an object store."""


def fit(needs: Sequence[Need], room: Room) -> list[Home]:
    """A home for each of ``needs``, in their order; nearer placements choose first.

    What does not fit as a whole into the medium it wants goes to the next farther one.
    """
    left = {Medium.GPU: room.gpu, Medium.DRAM: room.dram, Medium.NVME: room.nvme}
    homes: dict[int, Home] = {}
    for number in sorted(range(len(needs)), key=lambda number: needs[number].placement):
        need = needs[number]
        wanted = WANTED[need.placement]
        if wanted is Medium.GPU and not room.gpu:
            wanted = Medium.DRAM
        reachable = [
            medium
            for medium in (*left, Medium.OBJECT_STORE)
            if medium == wanted or (medium > wanted and not need.must_be_hot)
        ]
        had = left.get(wanted, -1)
        medium = next((m for m in reachable if left.get(m, need.num_bytes) >= need.num_bytes), None)
        if medium in left:
            left[medium] -= need.num_bytes
        homes[number] = Home(need, wanted, medium, had)
    return [homes[number] for number in range(len(needs))]
