"""A queue of things to look at: each once, in its newest form, and again after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog

K = TypeVar("K")
V = TypeVar("V")

log = structlog.get_logger(__name__)


class Wakeups(Generic[K, V]):
    """Newer views of a key replace older ones, waiting or failed; order is that of arrival."""

    def __init__(self, *, retry_seconds: float) -> None:
        self._retry_seconds = retry_seconds
        self._waiting: dict[K, V] = {}
        self._failed: dict[K, V] = {}
        self._bell = asyncio.Event()

    def ring(self, key: K, view: V) -> None:
        """``key`` needs a look, and looks like ``view`` now."""
        self._failed.pop(key, None)
        self._waiting[key] = view
        self._bell.set()

    async def serve(self, look: Callable[[K, V], Awaitable[None]]) -> None:
        """Look at one after another, for ever. What fails waits while the others go on."""
        async with asyncio.TaskGroup() as retries:
            while True:
                await self._bell.wait()
                key = next(iter(self._waiting))
                view = self._waiting.pop(key)
                if not self._waiting:
                    self._bell.clear()
                try:
                    await look(key, view)
                except Exception as error:  # of any kind: one bad object must not stop the rest
                    log.warning("will look again", key=str(key), error=str(error))
                    if key not in self._waiting:
                        self._failed[key] = view
                        retries.create_task(self._ring_later(key))

    async def _ring_later(self, key: K) -> None:
        await asyncio.sleep(self._retry_seconds)
        if key in self._failed:  # else a newer view rang since
            self.ring(key, self._failed[key])
