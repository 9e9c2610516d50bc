"""Which bytes of an arena are free: best fit with coalescing, and the plan that closes the gaps.

Pure book-keeping; whoever owns the memory does the moving.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

GRANULE: Final = 4096
"""Bytes. Direct I/O wants memory, offset and length on this border; a page everywhere we run."""


def aligned_up(num_bytes: int, granule: int = GRANULE) -> int:
    """The smallest multiple of ``granule`` that holds ``num_bytes``."""
    return -(-num_bytes // granule) * granule


def aligned_down(offset: int, granule: int = GRANULE) -> int:
    """The largest multiple of ``granule`` that is not behind ``offset``."""
    return offset // granule * granule


class Extents:
    """Free extents of ``capacity`` bytes, sorted by offset and never adjacent."""

    def __init__(self, capacity: int) -> None:
        assert capacity >= 0
        assert capacity % GRANULE == 0, capacity
        self.capacity = capacity
        self._offsets: list[int] = [0] if capacity else []
        self._lengths: list[int] = [capacity] if capacity else []

    @property
    def free_bytes(self) -> int:
        """In all free extents together."""
        return sum(self._lengths)

    @property
    def largest(self) -> int:
        """Bytes of the largest free extent: what can be allocated without moving anything."""
        return max(self._lengths, default=0)

    def take(self, num_bytes: int) -> int | None:
        """Offset of ``num_bytes`` (a multiple of the granule), or None without a gap that large.

        Best fit, lowest offset first among equals: weights come in few sizes, so that a freed
        record's gap is exactly what its successor needs.
        """
        assert num_bytes > 0
        assert num_bytes % GRANULE == 0, num_bytes
        fits = [i for i, length in enumerate(self._lengths) if length >= num_bytes]
        if not fits:
            return None
        best = min(fits, key=lambda i: self._lengths[i])
        offset = self._offsets[best]
        if self._lengths[best] == num_bytes:
            del self._offsets[best], self._lengths[best]
        else:
            self._offsets[best] += num_bytes
            self._lengths[best] -= num_bytes
        return offset

    def give(self, offset: int, num_bytes: int) -> None:
        """Return what :meth:`take` gave; joins the neighbours."""
        at = bisect_left(self._offsets, offset)
        before = self._offsets[at - 1] + self._lengths[at - 1] if at else 0
        after = self._offsets[at] if at < len(self._offsets) else self.capacity
        assert before <= offset <= offset + num_bytes <= after, "bytes were freed twice"
        self._offsets.insert(at, offset)
        self._lengths.insert(at, num_bytes)
        if at + 1 < len(self._offsets) and offset + num_bytes == after:
            self._join(at)
        if at and before == offset:
            self._join(at - 1)

    def _join(self, at: int) -> None:
        self._lengths[at] += self._lengths.pop(at + 1)
        del self._offsets[at + 1]


@dataclass(frozen=True, slots=True)
class Held:
    """An allocated extent, and whether it may be moved now."""

    offset: int
    length: int
    movable: bool = True


@dataclass(frozen=True, slots=True)
class Move:
    """Copy ``length`` bytes down; source and target may overlap, as ``memmove`` allows."""

    source: int
    target: int
    length: int


def compaction(held: Iterable[Held]) -> list[Move]:
    """Moves, in order, that slide every movable extent down as far as it goes.

    A move's target holds nothing that is needed when its turn comes. What can't move stays, and the
    room below it is filled only by what slides there in order of offset.
    """
    moves, floor = [], 0
    for extent in sorted(held, key=lambda extent: extent.offset):
        if extent.movable and extent.offset > floor:
            moves.append(Move(extent.offset, floor, extent.length))
            floor += extent.length
        else:
            floor = extent.offset + extent.length
    return moves
