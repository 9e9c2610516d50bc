"""Runs of checkpoints in memory: shared by loads, kept while there is room, evicted by age.

The same for the host's memory and for a device's. A run that is served from the page cache lies
here only while it is used and takes nothing of the budget: the pages are the kernel's to keep.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from time import monotonic
from types import MappingProxyType

from lite_llm.contracts.errors import OutOfMemory
from lite_llm.contracts.resources import format_size
from lite_llm.contracts.tiers import Medium
from lite_llm.tiers.arena import Arena, Block
from lite_llm.tiers.chunks import Chunks
from lite_llm.tiers.extents import aligned_up
from lite_llm.tiers.failures import StillLeased
from lite_llm.tiers.mapped_file import MappedFile
from lite_llm.tiers.measures import Measures
from lite_llm.tiers.plan import Run
from lite_llm.tiers.residency import Drop, Gone, Pinned, Residency, Unpinned, Used, Wanted


@dataclass(eq=False)
class HeldRun:
    """One run's block, and which of its chunks are there and verified."""

    key: str
    identity: str
    run: Run
    block: Block
    present: set[int] = field(default_factory=set)
    arriving: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    """By chunk: who is at it now."""
    users: int = 0
    mapped: MappedFile | None = None
    """Whose page cache the block is, in place of arena memory."""

    @property
    def is_complete(self) -> bool:
        return len(self.present) == len(self.run.chunks)

    @property
    def grid(self) -> Chunks:
        """The chunks of the run's file."""
        return Chunks(self.run.file)

    def part(self, chunks: range) -> tuple[int, int]:
        """Offset in the block, and bytes, of these chunks."""
        start = self.grid.start(chunks.start)
        return start - self.run.start, self.grid.start(chunks.stop) - start

    def missing(self, chunks: range) -> set[int]:
        """Those of ``chunks`` that are not there yet."""
        return set(chunks) - self.present


class MemoryTier:
    """An arena as a cache of runs. Lives on one event loop."""

    medium = Medium.DRAM

    def __init__(self, arena: Arena, *, clock: Callable[[], float] = monotonic) -> None:
        self.arena = arena
        self._clock = clock
        self._measures = Measures()
        self._residency = Residency({self.medium: arena.budget_bytes})
        self._runs: dict[str, HeldRun] = {}
        self._of_identity: dict[str, list[HeldRun]] = {}

    def measured_by(self, measures: Measures) -> None:
        """Tell what is held and evicted to ``measures`` from now on."""
        self._measures = measures
        self._tell()

    def hold(
        self,
        wanted: Sequence[tuple[str, Run]],
        *,
        mapped: Mapping[Run, MappedFile] = MappingProxyType({}),
    ) -> list[HeldRun]:
        """Places for runs of the files that the identities stand for, pinned until let go.

        Finds what is there, also as a part of a longer run; serves those in ``mapped`` where they
        lie; and evicts what nobody uses for the rest. Raises :class:`OutOfMemory`, and has evicted
        nothing, if that can't be enough.
        """
        places: dict[int, HeldRun] = {}
        try:
            for number, (identity, run) in enumerate(wanted):
                if found := self._found(identity, run):
                    if found.mapped is None:
                        self._residency.on(Used(found.key), self._clock())
                    places[number] = self._pinned(found)
                elif run in mapped and (made := self._mapped(identity, run, mapped[run])):
                    places[number] = self._pinned(made)
            fresh = [run for number, (_, run) in enumerate(wanted) if number not in places]
            self._must_fit(sum(aligned_up(run.num_bytes) for run in fresh))
            for number, (identity, run) in enumerate(wanted):
                if number not in places:
                    places[number] = self._pinned(self._made(identity, run))
        except BaseException:
            for place in places.values():
                self.let_go(place)
            raise
        self._tell()
        return [places[number] for number in range(len(wanted))]

    def has(self, identity: str, run: Run) -> bool:
        """Whether there is a place for the run already."""
        return self._found(identity, run) is not None

    def other_with(self, held: HeldRun, chunk: int) -> HeldRun | None:
        """Another run of the same file that has this chunk or is getting it."""
        others = (run for run in self._of_identity.get(held.identity, ()) if run is not held)
        return next((run for run in others if chunk in run.present or chunk in run.arriving), None)

    def keep(self, held: HeldRun) -> None:
        """Hold a place once more."""
        self._pinned(held)

    def let_go(self, held: HeldRun) -> None:
        """Of one place; what is not complete and not used any more is freed at once.

        Raises :class:`StillLeased`, and keeps the bytes for ever rather than hand them to another,
        while a lease on them is out.
        """
        if held.users == 1 and held.block.leases:
            raise StillLeased(f"{held.key} was let go with leases out", where=self.arena.name)
        held.users -= 1
        if held.mapped is not None:
            if not held.users:
                self._remove(held.key).block.arena.close()
            return
        self._residency.on(Unpinned(held.key), self._clock())
        if not held.users and not held.is_complete:
            self._free(held.key)
            self._residency.on(Gone(held.key, self.medium), self._clock())
        self._tell()

    def clear(self) -> None:
        """Free everything that nobody uses."""
        for held in [held for held in self._runs.values() if not held.users]:
            self._free(held.key)
            self._residency.on(Gone(held.key, self.medium), self._clock())
            self._measures.evicted(self.medium, "unload")
        self._tell()

    def check(self) -> None:
        """Assert that book-keeping and arena agree."""
        self.arena.check()
        self._residency.check()
        assert self.arena.used_bytes == sum(held.block.room for held in self._in_arena())

    def _in_arena(self) -> list[HeldRun]:
        return [held for held in self._runs.values() if held.mapped is None]

    def _found(self, identity: str, run: Run) -> HeldRun | None:
        if held := self._runs.get(_key(identity, run)):
            return held
        longer = (held for held in self._of_identity.get(identity, ()) if run.is_part_of(held.run))
        return next((held for held in longer if not held.missing(run.chunks)), None)

    def _add(self, held: HeldRun) -> HeldRun:
        self._runs[held.key] = held
        self._of_identity.setdefault(held.identity, []).append(held)
        return held

    def _remove(self, key: str) -> HeldRun:
        held = self._runs.pop(key)
        self._of_identity[held.identity].remove(held)
        if not self._of_identity[held.identity]:
            del self._of_identity[held.identity]
        return held

    def _must_fit(self, num_bytes: int) -> None:
        in_use = sum(held.block.room for held in self._in_arena() if held.users)
        if in_use + num_bytes > self.arena.budget_bytes:
            raise OutOfMemory(
                f"{self.arena.name} ({format_size(self.arena.budget_bytes)}) has no room for "
                f"{format_size(num_bytes)}: {format_size(in_use)} are in use",
                where=self.arena.name,
                remedy="close a load, load less of the model, or raise the budget",
            )

    def _made(self, identity: str, run: Run) -> HeldRun:
        key = _key(identity, run)
        block = self._room_for(key, run.num_bytes)
        return self._add(HeldRun(key, identity, run, block))

    def _room_for(self, key: str, num_bytes: int) -> Block:
        wanted = Wanted(key, aligned_up(num_bytes), self.medium)
        for action in self._residency.on(wanted, self._clock()):
            if isinstance(action, Drop):
                self._free(action.key)
                self._measures.evicted(self.medium, "capacity")
        try:
            return self.arena.allocate(num_bytes, owner=key)
        except BaseException:
            # Leased blocks can't be moved: enough bytes may be free, and no gap large enough.
            self._residency.on(Gone(key, self.medium), self._clock())
            raise

    def _mapped(self, identity: str, run: Run, file: MappedFile) -> HeldRun | None:
        key = _key(identity, run)
        try:
            block = file.block(run.start, run.num_bytes, owner=key)
        except OSError:  # a writer came between: the copy in the arena will be checked
            return None
        return self._add(HeldRun(key, identity, run, block, file.known(run), mapped=file))

    def _pinned(self, held: HeldRun) -> HeldRun:
        if held.mapped is None:
            self._residency.on(Pinned(held.key), self._clock())
        held.users += 1
        return held

    def _free(self, key: str) -> None:
        self._runs[key].block.free()
        self._remove(key)

    def _tell(self) -> None:
        held = self._in_arena()
        self._measures.fills(
            self.medium,
            capacity=self.arena.budget_bytes,
            used=sum(run.block.room for run in held),
            reserved=sum(run.block.room for run in held if not run.is_complete),
            pinned=sum(run.block.room for run in held if run.users),
        )


class HostTier(MemoryTier):
    """The host's memory: it also lends blocks for bytes that only pass through."""

    def __init__(self, arena: Arena, *, clock: Callable[[], float] = monotonic) -> None:
        super().__init__(arena, clock=clock)
        self._lent = count()
        self._out: set[str] = set()
        self._returned = asyncio.Event()

    @asynccontextmanager
    async def borrowed(self, num_bytes: int) -> AsyncIterator[Block]:
        """A block of its own, after waiting for others to come back if there is no room.

        Raises :class:`OutOfMemory` if none is out and what is in use leaves too little.
        """
        key = f"on its way {next(self._lent)}"
        while (block := self._lend(key, num_bytes)) is None:
            await self._returned.wait()
        try:
            yield block
        finally:
            block.free()
            self._out.discard(key)
            self._residency.on(Unpinned(key), self._clock())
            self._residency.on(Gone(key, self.medium), self._clock())
            self._returned.set()
            self._returned = asyncio.Event()

    def _lend(self, key: str, num_bytes: int) -> Block | None:
        try:
            block = self._room_for(key, num_bytes)
        except OutOfMemory:
            if not self._out:
                raise
            return None
        self._residency.on(Pinned(key), self._clock())
        self._out.add(key)
        return block


def _key(identity: str, run: Run) -> str:
    return f"{identity}:{run.chunks.start}-{run.chunks.stop}"
