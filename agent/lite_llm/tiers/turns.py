"""Turns on a wire: demand before prefetch, then whoever has had the fewest bytes.

A wire is whatever several loads share: the disk's queue, the connections to a store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Waiter:
    """One that wants the wire."""

    load: Hashable
    is_demand: Callable[[], bool]
    """Asked when a turn is free, not when the wait begins: a prefetch may have become urgent."""
    turn: asyncio.Future[None]


def next_turn(waiting: Iterable[Waiter], served: dict[Hashable, int]) -> Waiter:
    """Who goes next; the earliest among equals."""
    return min(waiting, key=lambda waiter: (not waiter.is_demand(), served[waiter.load]))


class Turns:
    """At most ``slots`` holders at a time."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._held = 0
        self._waiting: list[Waiter] = []
        self._served: dict[Hashable, int] = {}
        self._users: dict[Hashable, int] = {}

    @asynccontextmanager
    async def joined(self, load: Hashable) -> AsyncIterator[None]:
        """Take part as ``load``: a newcomer starts level with the one served least."""
        if load not in self._users:
            self._served[load] = min(self._served.values(), default=0)
        self._users[load] = self._users.get(load, 0) + 1
        try:
            yield
        finally:
            self._users[load] -= 1
            if not self._users[load]:
                del self._users[load], self._served[load]

    async def take(self, load: Hashable, is_demand: Callable[[], bool]) -> None:
        """Wait for a turn; :meth:`charge` it once it is known what it is used for."""
        waiter = Waiter(load, is_demand, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._grant()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            else:
                self.give_back()
            raise

    def charge(self, load: Hashable, num_bytes: int) -> None:
        """Count what a turn moves against the load's share."""
        self._served[load] += num_bytes

    def give_back(self) -> None:
        """End a turn."""
        self._held -= 1
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._held < self.slots:
            waiter = next_turn(self._waiting, self._served)
            self._waiting.remove(waiter)
            if waiter.turn.done():  # cancelled, and about to find out
                continue
            self._held += 1
            waiter.turn.set_result(None)
