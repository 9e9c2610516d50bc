"""Whose turn it is: weighted fair queueing, so that a busy tenant delays itself and not others.

Start-time fair queueing: a request's tag is when its turn would be over if its tenant had its share
of the turns to itself; the lowest tag is next (Goyal, Vin, Cheng: Start-time Fair Queueing, 1996).
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lite_llm.contracts.errors import Overloaded

RETRY_SECONDS = 1.0


@dataclass(order=True)
class _Waiter:
    start: float
    number: int
    turn: asyncio.Future[None] = field(compare=False)


class FairQueue:
    """Gives ``capacity`` turns at a time."""

    def __init__(self, capacity: int, max_waiting: int) -> None:
        self._capacity = capacity
        self._max_waiting = max_waiting
        self._taken = 0
        self._number = 0
        self._now = 0.0
        """Virtual time: the start tag of the last turn that was given."""
        self._finished: dict[str, float] = {}
        """Finish tags of tenants' last requests."""
        self._waiting: list[_Waiter] = []
        """A heap, with those that have left until it is their turn, or most of it has left."""
        self._num_gone = 0

    @property
    def num_waiting(self) -> int:
        """Requests without a turn."""
        return len(self._waiting) - self._num_gone

    @asynccontextmanager
    async def turn(self, tenant: str, weight: float, cost: float) -> AsyncIterator[None]:
        """Wait for one, and have it while the block runs; :class:`Overloaded` if too many wait."""
        if self.num_waiting >= self._max_waiting:
            raise Overloaded(
                f"{self._max_waiting} requests wait for their turn already",
                remedy="try again",
                retry_after=RETRY_SECONDS,
            )
        start = max(self._now, self._finished.get(tenant, 0.0))
        self._finished[tenant] = start + cost / weight
        if self._taken < self._capacity and not self.num_waiting:
            self._take(start)
        else:
            await self._wait(start)
        try:
            yield
        finally:
            self._taken -= 1
            self._give()

    async def _wait(self, start: float) -> None:
        self._number += 1
        waiter = _Waiter(start, self._number, asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiting, waiter)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled():  # it came in the same moment
                self._taken -= 1
                self._give()
            else:
                self._left()
            raise

    def _left(self) -> None:
        self._num_gone += 1
        if 2 * self._num_gone > (before := len(self._waiting)):
            self._waiting = [waiter for waiter in self._waiting if not waiter.turn.done()]
            heapq.heapify(self._waiting)
            self._num_gone -= before - len(self._waiting)

    def _give(self) -> None:
        while self._waiting and self._taken < self._capacity:
            waiter = heapq.heappop(self._waiting)
            if waiter.turn.done():
                self._num_gone -= 1
            else:
                self._take(waiter.start)
                waiter.turn.set_result(None)
        if not self._taken:  # nobody is owed anything any more
            self._finished.clear()
            self._now = 0.0

    def _take(self, start: float) -> None:
        self._taken += 1
        self._now = max(self._now, start)
