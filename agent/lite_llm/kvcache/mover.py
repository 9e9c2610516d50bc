"""Carries pages between places while the model computes.

Three threads, for copies between memories, for reading from disk and for writing to it, each in
order. A move waits for the last one that touched its source or its target, whichever thread has
it, and whoever computes waits for the moves that touch what it reads and writes: so no slot is read
before it is written, nor overwritten before it is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import structlog
import torch
from torch import Tensor

from lite_llm.contracts.errors import Corrupt, StorageFailed
from lite_llm.kvcache.ledger import Move
from lite_llm.kvcache.page_file import PageFile
from lite_llm.kvcache.tree import Page, Place

log = structlog.get_logger(__name__)

Slot = tuple[Place, int]

_KEEP = (
    0.9  # of what was measured before, when a new measurement comes: one stall is soon forgotten
)


@dataclass
class _Pace:
    """Seconds that bringing a page took lately; 0 before the first."""

    page_seconds: float = 0.0

    def add(self, seconds: float) -> None:
        old = self.page_seconds or seconds
        self.page_seconds = _KEEP * old + (1 - _KEEP) * seconds


class Mover:
    """Started and asked by one thread, the one that computes."""

    def __init__(self, device_PX: Tensor, host_PX: Tensor | None, disk: PageFile | None) -> None:
        """``device_PX`` and ``host_PX``: pages, a row each."""
        self._memory = {Place.DEVICE: device_PX}
        if host_PX is not None:
            self._memory[Place.HOST] = host_PX
        self._disk = disk
        self._copies = ThreadPoolExecutor(1, thread_name_prefix="kvcache-copy")
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="kvcache-read")
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="kvcache-write")
        self._last: dict[Slot, Future[bool]] = {}
        self._reads: list[tuple[Page, Future[bool]]] = []
        self.host_pace = _Pace()
        self.disk_pace = _Pace()

    def start(self, moves: Iterable[Move]) -> None:
        """In this order."""
        for move in moves:
            before = [self._last[s] for s in (move.source, move.target) if s in self._last]
            job = self._pool(move).submit(
                self._carry, move, before, _computed(self._memory[Place.DEVICE])
            )
            self._last[move.source] = self._last[move.target] = job
            if move.source[0] is Place.DISK:
                self._reads.append((move.page, job))

    def _pool(self, move: Move) -> ThreadPoolExecutor:
        if move.source[0] is Place.DISK:
            return self._reading
        return self._writing if move.target[0] is Place.DISK else self._copies

    def wait(self, slots: Iterable[int]) -> None:
        """Until no move touches these slots of the device."""
        self._last = {slot: job for slot, job in self._last.items() if not job.done()}
        if self._last:
            for slot in set(slots):
                if job := self._last.get((Place.DEVICE, slot)):
                    job.result()

    def arrived(self) -> list[tuple[Page, bool]]:
        """Pages read from disk since the last call, and whether they are what was written."""
        waiting = {page for page, job in self._reads if not job.done()}
        done = [(page, job.result()) for page, job in self._reads if page not in waiting]
        self._reads = [(page, job) for page, job in self._reads if page in waiting]
        return done

    def close(self) -> None:
        """Finish what is under way."""
        for pool in (self._copies, self._reading, self._writing):
            pool.shutdown()
        self._last.clear()
        self._memory.clear()  # or the host's could not be given back

    def _carry(
        self, move: Move, before: Iterable[Future[bool]], computed: torch.cuda.Event | None
    ) -> bool:
        # Earlier moves only, and threads take moves in order: two can't wait for each other.
        for job in before:
            job.result()
        if computed is not None:
            computed.synchronize()
        begin = perf_counter()
        (source, source_slot), (target, target_slot) = move.source, move.target
        if target is Place.DISK:
            return self._write(target_slot, self._memory[source][source_slot])
        into_X = self._memory[target][target_slot]
        if source is Place.DISK:
            if not self._read(source_slot, into_X):
                return False
            self.disk_pace.add(perf_counter() - begin)
            return True
        _copy(into_X, self._memory[source][source_slot])
        if target is Place.DEVICE:
            self.host_pace.add(perf_counter() - begin)
        return True

    def _write(self, slot: int, page_X: Tensor) -> bool:
        assert self._disk is not None
        try:
            self._disk.write(slot, page_X)
        except StorageFailed as error:
            log.warning("page not kept on disk", reason=str(error))
            return False
        return True

    def _read(self, slot: int, into_X: Tensor) -> bool:
        assert self._disk is not None
        try:
            self._disk.read(slot, into_X)
        except (Corrupt, StorageFailed) as error:
            log.warning("page on disk is lost", reason=str(error))
            return False
        return True


def _computed(device_PX: Tensor) -> torch.cuda.Event | None:
    """What the computing stream has done up to now; None where computing is synchronous."""
    if not device_PX.is_cuda:
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch's own
    event.record(torch.cuda.current_stream(device_PX.device))
    return event


def _copy(into_X: Tensor, from_X: Tensor) -> None:
    cuda = next((t for t in (into_X, from_X) if t.is_cuda), None)
    if cuda is None:
        into_X.copy_(from_X)
        return
    # A stream of this thread: on the default one it would queue behind the model's kernels.
    stream = torch.cuda.Stream(cuda.device)  # type: ignore[no-untyped-call] # torch's own
    with torch.cuda.stream(stream):
        into_X.copy_(from_X, non_blocking=True)
    stream.synchronize()
