"""A bounded arena: every block has one owner, readers hold leases, a writer needs the only one.

Leases cover byte ranges, so that a layer can be read while the rest of its file still arrives.
All methods may be called from any thread (SPEC-007).
"""

from __future__ import annotations

import weakref
from threading import RLock
from types import TracebackType
from typing import Self

import numpy as np

from lite_llm.contracts.errors import OutOfMemory
from lite_llm.contracts.resources import format_size
from lite_llm.tiers.extents import Extents, Held, aligned_up, compaction
from lite_llm.tiers.failures import StillLeased, UseAfterRelease
from lite_llm.tiers.memory import Memory


class Arena:
    """Blocks cut from one memory, never more of them than its size: the medium's budget."""

    def __init__(self, name: str, memory: Memory) -> None:
        """``name`` says in errors which medium is full."""
        self.name = name
        self._memory = memory
        self._extents = Extents(memory.num_bytes)
        self._blocks: set[Block] = set()
        self._lock = RLock()

    @property
    def budget_bytes(self) -> int:
        return self._memory.num_bytes

    @property
    def pinned(self) -> str:
        """How the pages are held in place: "cuda", "mlock" or "" (see :class:`Memory`)."""
        return self._memory.pinned

    @property
    def used_bytes(self) -> int:
        """In blocks, rounded up to whole pages."""
        with self._lock:
            return sum(block.room for block in self._blocks)

    def allocate(self, num_bytes: int, *, owner: str) -> Block:
        """A block on a page border. Raises :class:`OutOfMemory`; moves blocks if that helps."""
        room = max(aligned_up(num_bytes), aligned_up(1))
        with self._lock:
            offset = self._extents.take(room)
            if offset is None and self._extents.free_bytes >= room:
                self.defragment()
                offset = self._extents.take(room)
            if offset is None:
                raise OutOfMemory(
                    f"{self.name} has no room for {format_size(num_bytes)}: "
                    f"{format_size(self._extents.free_bytes)} free "
                    f"of {format_size(self.budget_bytes)}",
                    where=self.name,
                    remedy="free something, or raise the budget",
                )
            block = Block(self, owner, offset, room, num_bytes)
            self._blocks.add(block)
            self.check()
            return block

    def defragment(self) -> int:
        """Slide blocks without leases together; returns the bytes moved. Costs a copy of them."""
        with self._lock:
            by_offset = {block.offset: block for block in self._blocks}
            moves = compaction(
                Held(block.offset, block.room, movable=not block.leases) for block in self._blocks
            )
            for move in moves:
                self._memory.move(move.source, move.target, move.length)
                by_offset[move.source].offset = move.target
            self._extents = _extents_around(self._blocks, self.budget_bytes)
            self.check()
            return sum(move.length for move in moves)

    def check(self) -> None:
        """Assert the conservation law: free and used bytes are all bytes, and nothing overlaps."""
        with self._lock:
            used = sum(block.room for block in self._blocks)
            assert used + self._extents.free_bytes == self.budget_bytes, f"{self.name} leaks"
            assert used <= self.budget_bytes, f"{self.name} is over budget"

    def close(self) -> None:
        """Unmap everything; :class:`StillLeased` names an owner whose block is still leased."""
        with self._lock:
            for block in list(self._blocks):
                block.free()
            self._memory.close()


def _extents_around(blocks: set[Block], capacity: int) -> Extents:
    extents = Extents(capacity)
    # Taken as a whole, then the gaps are given back: that asserts that no two blocks overlap.
    taken = extents.take(capacity)
    assert taken == 0
    end = 0
    for block in sorted(blocks, key=lambda block: block.offset):
        assert block.offset >= end, "blocks overlap"
        if block.offset > end:
            extents.give(end, block.offset - end)
        end = block.offset + block.room
    if end < capacity:
        extents.give(end, capacity - end)
    return extents


class Block:
    """Bytes of an arena with one owner. Made by :meth:`Arena.allocate` only."""

    def __init__(self, arena: Arena, owner: str, offset: int, room: int, num_bytes: int) -> None:
        self.owner = owner
        self.num_bytes = num_bytes
        self.room = room
        """Bytes really taken: ``num_bytes`` rounded up to whole pages."""
        self.offset = offset
        self.leases: list[Lease] = []
        self.arena = arena

    def read(self, offset: int = 0, num_bytes: int | None = None) -> Lease:
        """Lease a range for reading; :class:`StillLeased` while a writer is in it."""
        return self._lease(offset, num_bytes, writes=False)

    def write(self, offset: int = 0, num_bytes: int | None = None) -> Lease:
        """Lease a range alone; may reach into the padding up to ``room`` for direct I/O."""
        return self._lease(offset, num_bytes, writes=True)

    def _lease(self, offset: int, num_bytes: int | None, *, writes: bool) -> Lease:
        end = self.num_bytes if num_bytes is None else offset + num_bytes
        assert 0 <= offset <= end <= self.room, (offset, end, self.room)
        with self.arena._lock:
            self._must_live()
            for other in self.leases:
                overlaps = other.start < end and offset < other.end
                if overlaps and (writes or other.writes):
                    raise StillLeased(
                        f"bytes {offset} to {end} of {self.owner} are leased "
                        f"for {'writing' if other.writes else 'reading'}",
                        where=self.arena.name,
                    )
            view = self.arena._memory.view(self.offset + offset, end - offset)
            lease = Lease(self, view, offset, end, writes=writes)
            self.leases.append(lease)
            return lease

    def handed_to(self, owner: str) -> Block:
        """The same bytes under another owner; this handle is dead from now on."""
        with self.arena._lock:
            self._must_be_idle("handed over")
            successor = Block(self.arena, owner, self.offset, self.room, self.num_bytes)
            self.arena._blocks.remove(self)
            self.arena._blocks.add(successor)
            return successor

    def free(self) -> None:
        """Give the bytes back. Impossible while anybody holds a lease."""
        with self.arena._lock:
            self._must_be_idle("freed")
            self.arena._blocks.remove(self)
            self.arena._extents.give(self.offset, self.room)
            self.arena.check()

    @property
    def is_alive(self) -> bool:
        return self in self.arena._blocks

    def _must_live(self) -> None:
        if not self.is_alive:
            raise UseAfterRelease(
                f"the block of {self.owner} was freed or handed over", where=self.arena.name
            )

    def _must_be_idle(self, what: str) -> None:
        self._must_live()
        if self.leases:
            raise StillLeased(
                f"the block of {self.owner} can't be {what}: {len(self.leases)} leases are out",
                where=self.arena.name,
            )


class Lease:
    """Access to a range of a block until :meth:`release`, best as a with-block."""

    def __init__(
        self, block: Block, view: memoryview, start: int, end: int, *, writes: bool
    ) -> None:
        self.block = block
        self.start = start
        self.end = end
        self.writes = writes
        self._view: memoryview | None = view
        self._anchor: weakref.ref[object] | None = None
        if isinstance(view, memoryview):  # a device's array keeps its own count and its own rights
            # Slices, arrays and tensors made from the view all keep this array alive, and the view
            # itself does not: so its death tells when the last of them is gone.
            anchor = np.frombuffer(view, np.uint8)
            self._anchor = weakref.ref(anchor)
            anchor.flags.writeable = writes
            self._view = anchor.data

    @property
    def view(self) -> memoryview:
        """The bytes; :class:`UseAfterRelease` once the lease is back."""
        if self._view is None:
            raise UseAfterRelease(
                f"a lease on the block of {self.block.owner} was returned before this use",
                where=self.block.arena.name,
            )
        return self._view

    def release(self) -> None:
        """Return the lease. Twice is harmless.

        Raises :class:`StillLeased` while a slice or an array made from the view is alive: it would
        read somebody else's bytes later. The range stays leased then; call again without them.
        """
        with self.block.arena._lock:
            if isinstance(self._view, memoryview):
                self._view.release()
            self._view = None
            if self._anchor is not None and self._anchor() is not None:
                raise StillLeased(
                    f"arrays over the block of {self.block.owner} are still alive",
                    where=self.block.arena.name,
                )
            self._anchor = None
            if self in self.block.leases:
                self.block.leases.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
