"""Carries pages between places while the model computes.

Three threads, for copies between memories, for reading from disk and for writing to it, each in
order. A move waits for the last one that touched its source or its target, whichever thread has
it, and whoever computes waits for the moves that touch what it reads and writes: so no slot is read
before it is written, nor overwritten before it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import structlog
import torch
from torch import Tensor

from lite_llm.contracts.errors import Corrupt, StorageFailed
from lite_llm.kvcache.ledger import Move
from lite_llm.kvcache.page_codec import PageCodec
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

    def __init__(
        self,
        device_PX: Tensor,
        host_QY: Tensor | None,
        disk: PageFile | None,
        codec: PageCodec,
        read: Callable[[], None],
    ) -> None:
        """``device_PX``: pages, a row each; ``host_QY``: encoded ones, a row of bytes each.

        ``read`` is called by another thread when all that one :meth:`start` reads from disk is
        there, or known not to be.
        """
        self._device_PX = device_PX
        self._host_QY = host_QY
        self._disk = disk
        self._codec = codec
        self._read_all = read
        self._copies = ThreadPoolExecutor(1, thread_name_prefix="kvcache-copy")
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="kvcache-read")
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="kvcache-write")
        self._last: dict[Slot, Future[bool]] = {}
        self._reads: list[tuple[Page, Future[bool]]] = []
        self._writes_fail = self._reads_fail = False
        """Each the business of the thread that writes, or reads."""
        self.host_pace = _Pace()
        self.disk_pace = _Pace()

    def start(self, moves: Iterable[Move]) -> None:
        """In this order."""
        last = None
        for move in moves:
            before = [self._last[s] for s in (move.source, move.target) if s in self._last]
            job = self._pool(move).submit(self._carry, move, before, _computed(self._device_PX))
            self._last[move.source] = self._last[move.target] = job
            if move.source[0] is Place.DISK:
                self._reads.append((move.page, job))
                last = job
        if last is not None:  # one thread reads, in order: all before it are done by then
            last.add_done_callback(lambda _: self._read_all())

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
        self._host_QY = None  # or its memory could not be given back

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
            return self._write(target_slot, self._encoded(source, source_slot))
        if target is Place.HOST:
            assert source is Place.DEVICE, "nothing comes from disk but what is needed"
            with _stream(self._device_PX):
                self._codec.encode(self._device_PX[source_slot], self._host_page(target_slot))
            return True
        if source is Place.HOST:
            page_Y, pace = self._host_page(source_slot), self.host_pace
        else:
            page_Y, pace = self._blank(), self.disk_pace
            if not self._read(source_slot, page_Y):
                return False
        with _stream(self._device_PX):
            self._codec.decode(page_Y, self._device_PX[target_slot])
        pace.add(perf_counter() - begin)
        return True

    def _encoded(self, source: Place, slot: int) -> Tensor:
        if source is Place.HOST:
            return self._host_page(slot)
        page_Y = self._blank()
        with _stream(self._device_PX):
            self._codec.encode(self._device_PX[slot], page_Y)
        return page_Y

    def _host_page(self, slot: int) -> Tensor:
        assert self._host_QY is not None
        return self._host_QY[slot]

    def _blank(self) -> Tensor:
        return torch.empty(self._codec.num_bytes, dtype=torch.uint8)

    def _write(self, slot: int, page_Y: Tensor) -> bool:
        assert self._disk is not None
        try:
            self._disk.write(slot, page_Y.numpy().data)
        except StorageFailed as error:
            if not self._writes_fail:  # once, and not for each of many thousand pages
                log.warning("pages are not kept on disk", reason=str(error))
            self._writes_fail = True
            return False
        self._writes_fail = False
        return True

    def _read(self, slot: int, into_Y: Tensor) -> bool:
        assert self._disk is not None
        try:
            self._disk.read(slot, into_Y.numpy().data)
        except (Corrupt, StorageFailed) as error:
            if not self._reads_fail:
                log.warning("pages on disk are lost", reason=str(error))
            self._reads_fail = True
            return False
        self._reads_fail = False
        return True


def _computed(device_PX: Tensor) -> torch.cuda.Event | None:
    """What the computing stream has done up to now; None where computing is synchronous."""
    if not device_PX.is_cuda:
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch's own
    event.record(torch.cuda.current_stream(device_PX.device))
    return event


@contextmanager
def _stream(device_PX: Tensor) -> Iterator[None]:
    """What is begun within is done at the end, and has not waited for the model's kernels."""
    if not device_PX.is_cuda:
        yield
        return
    stream = torch.cuda.Stream(device_PX.device)  # type: ignore[no-untyped-call] # torch's own
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()
