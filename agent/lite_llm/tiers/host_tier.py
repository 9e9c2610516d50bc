"""Runs of checkpoints in host memory: shared by loads, kept while there is room, evicted by age."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

from lite_llm.contracts.errors import OutOfMemory
from lite_llm.contracts.resources import format_size
from lite_llm.contracts.tiers import Medium
from lite_llm.tiers.arena import Arena, Block
from lite_llm.tiers.chunks import Chunks
from lite_llm.tiers.extents import aligned_up
from lite_llm.tiers.failures import StillLeased
from lite_llm.tiers.plan import Run
from lite_llm.tiers.residency import Drop, Gone, Pinned, Residency, Unpinned, Used, Wanted


@dataclass(eq=False)
class HostRun:
    """One run's block, and which of its chunks are there and verified."""

    key: str
    identity: str
    run: Run
    block: Block
    present: set[int] = field(default_factory=set)
    arriving: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    """By chunk: who is at it now."""
    users: int = 0

    @property
    def is_complete(self) -> bool:
        return len(self.present) == len(self.run.chunks)

    @property
    def grid(self) -> Chunks:
        """The chunks of the run's file."""
        return Chunks(self.run.file)

    def missing(self, chunks: range) -> set[int]:
        """Those of ``chunks`` that are not there yet."""
        return set(chunks) - self.present


class HostTier:
    """The arena of host memory as a cache. Lives on one event loop."""

    def __init__(self, arena: Arena, *, clock: Callable[[], float] = monotonic) -> None:
        self.arena = arena
        self._clock = clock
        self._residency = Residency({Medium.DRAM: arena.budget_bytes})
        self._runs: dict[str, HostRun] = {}

    def hold(self, wanted: Sequence[tuple[str, Run]]) -> list[HostRun]:
        """Places for runs of the files that the identities stand for, pinned until let go.

        Finds what is there, also as a part of a longer run, and evicts what nobody uses for the
        rest. Raises :class:`OutOfMemory`, and has evicted nothing, if that can't be enough.
        """
        places: dict[int, HostRun] = {}
        try:
            for number, (identity, run) in enumerate(wanted):
                if found := self._found(identity, run):
                    self._residency.on(Used(found.key), self._clock())
                    places[number] = self._pinned(found)
            fresh = [run for number, (_, run) in enumerate(wanted) if number not in places]
            self._must_fit(sum(aligned_up(run.num_bytes) for run in fresh))
            for number, (identity, run) in enumerate(wanted):
                if number not in places:
                    places[number] = self._pinned(self._made(identity, run))
        except BaseException:
            for place in places.values():
                self.let_go(place)
            raise
        return [places[number] for number in range(len(wanted))]

    def let_go(self, held: HostRun) -> None:
        """Of one place; what is not complete and not used any more is freed at once.

        Raises :class:`StillLeased`, and keeps the bytes for ever rather than hand them to another,
        while a lease on them is out.
        """
        if held.users == 1 and held.block.leases:
            raise StillLeased(f"{held.key} was let go with leases out", where=self.arena.name)
        held.users -= 1
        self._residency.on(Unpinned(held.key), self._clock())
        if not held.users and not held.is_complete:
            self._free(held.key)
            self._residency.on(Gone(held.key, Medium.DRAM), self._clock())

    def clear(self) -> None:
        """Free everything that nobody uses."""
        for held in [held for held in self._runs.values() if not held.users]:
            self._free(held.key)
            self._residency.on(Gone(held.key, Medium.DRAM), self._clock())

    def check(self) -> None:
        """Assert that book-keeping and arena agree."""
        self.arena.check()
        self._residency.check()
        assert self.arena.used_bytes == sum(held.block.room for held in self._runs.values())

    def _found(self, identity: str, run: Run) -> HostRun | None:
        if held := self._runs.get(_key(identity, run)):
            return held
        chunks = set(run.chunks)
        return next(
            (
                held
                for held in self._runs.values()
                if held.identity == identity and chunks <= held.present
            ),
            None,
        )

    def _must_fit(self, num_bytes: int) -> None:
        in_use = sum(held.block.room for held in self._runs.values() if held.users)
        if in_use + num_bytes > self.arena.budget_bytes:
            raise OutOfMemory(
                f"{self.arena.name} ({format_size(self.arena.budget_bytes)}) has no room for "
                f"{format_size(num_bytes)}: {format_size(in_use)} are in use",
                where=self.arena.name,
                remedy="close a load, load less of the model, or raise the budget",
            )

    def _made(self, identity: str, run: Run) -> HostRun:
        key, room = _key(identity, run), aligned_up(run.num_bytes)
        for action in self._residency.on(Wanted(key, room, Medium.DRAM), self._clock()):
            if isinstance(action, Drop):
                self._free(action.key)
        try:
            block = self.arena.allocate(run.num_bytes, owner=key)
        except BaseException:
            # Leased blocks can't be moved: enough bytes may be free, and no gap large enough.
            self._residency.on(Gone(key, Medium.DRAM), self._clock())
            raise
        self._runs[key] = HostRun(key, identity, run, block)
        return self._runs[key]

    def _pinned(self, held: HostRun) -> HostRun:
        self._residency.on(Pinned(held.key), self._clock())
        held.users += 1
        return held

    def _free(self, key: str) -> None:
        self._runs[key].block.free()
        del self._runs[key]


def _key(identity: str, run: Run) -> str:
    return f"{identity}:{run.chunks.start}-{run.chunks.stop}"
