"""Runs of checkpoints in host memory: shared by loads, kept while there is room, evicted by age."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from lite_llm.contracts.tiers import Medium
from lite_llm.tiers.arena import Arena, Block
from lite_llm.tiers.chunks import Chunks
from lite_llm.tiers.extents import aligned_up
from lite_llm.tiers.plan import Run
from lite_llm.tiers.residency import Drop, Gone, Pinned, Residency, Unpinned, Used, Wanted


@dataclass(eq=False)
class HostRun:
    """One run's block, and which of its chunks are there and verified."""

    key: str
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

    def hold(self, identity: str, run: Run) -> HostRun:
        """A place for ``run`` of the file that ``identity`` stands for, pinned until let go.

        Finds it if it is there, also as a part of a longer run. Evicts what nobody uses; raises
        :class:`OutOfMemory` and evicts nothing if that is not enough.
        """
        key = f"{identity}:{run.chunks.start}-{run.chunks.stop}"
        held = self._runs.get(key) or self._covering(identity, run)
        if held is None:
            held = HostRun(key, run, self._room(key, run))
            self._runs[key] = held
        else:
            self._residency.on(Used(held.key), self._clock())
        self._residency.on(Pinned(held.key), self._clock())
        held.users += 1
        return held

    def let_go(self, held: HostRun) -> None:
        """The inverse of :meth:`hold`; what is not complete and not used is freed at once."""
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

    def _room(self, key: str, run: Run) -> Block:
        room = aligned_up(run.num_bytes)
        for action in self._residency.on(Wanted(key, room, Medium.DRAM), self._clock()):
            if isinstance(action, Drop):
                self._free(action.key)
        try:
            return self.arena.allocate(run.num_bytes, owner=key)
        except BaseException:
            # Leased blocks can't be moved: enough bytes may be free, and no gap large enough.
            self._residency.on(Gone(key, Medium.DRAM), self._clock())
            raise

    def _free(self, key: str) -> None:
        self._runs.pop(key).block.free()

    def _covering(self, identity: str, run: Run) -> HostRun | None:
        wanted = set(run.chunks)
        for held in self._runs.values():
            if held.key.rpartition(":")[0] == identity and wanted <= held.present:
                return held
        return None
