"""Tell everyone who waits that something is different now."""

from __future__ import annotations

import asyncio


class Changes:
    """Counts changes. A reader that is slow misses those between, never the last one."""

    def __init__(self) -> None:
        self.version = 0
        self._next = asyncio.Event()

    def notify(self) -> None:
        """Something changed."""
        self.version += 1
        waiting, self._next = self._next, asyncio.Event()
        waiting.set()

    async def beyond(self, version: int) -> None:
        """Return once there was a change after ``version``; at once if there was one already."""
        while self.version <= version:
            await self._next.wait()
