"""A queue of keys to look at: each by one worker at a time, paced, and again after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from time import monotonic
from typing import Generic, TypeVar

import structlog

from lite_llm.contracts import LiteLLMError

K = TypeVar("K")

FIRST_RETRY_SECONDS = 0.25  # doubled with every failure in a row
MAX_RETRY_SECONDS = 30.0

log = structlog.get_logger(__name__)


class Wakeups(Generic[K]):
    """Whoever looks sees the newest state, so that it does not matter how often a key rang."""

    def __init__(
        self, *, pace_seconds: float = 0.0, first_retry_seconds: float = FIRST_RETRY_SECONDS
    ) -> None:
        """``pace_seconds`` lie between two looks at one key: what changes fast is told seldom."""
        self._pace_seconds = pace_seconds
        self._first_retry_seconds = first_retry_seconds
        self._waiting: dict[K, float] = {}
        self._resting: dict[K, bool] = {}
        """Keys being looked at or paced, and whether they rang since."""
        self._failures: dict[K, int] = {}
        self._taken = monotonic()
        """When a worker last took a key."""
        self._bell = asyncio.Event()

    def ring(self, keys: Iterable[K]) -> None:
        """These need a look."""
        for key in keys:
            if key in self._resting:
                self._resting[key] = True
            else:
                self._waiting.setdefault(key, monotonic())
                self._bell.set()

    @property
    def num_waiting(self) -> int:
        """Keys that wait for a worker."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Nothing waits and nothing is being looked at or paced."""
        return not self._waiting and not self._resting

    @property
    def stuck_seconds(self) -> float:
        """For how long some wait and no worker takes any; 0 if none waits."""
        oldest = next(iter(self._waiting.values()), None)
        return 0.0 if oldest is None else monotonic() - max(oldest, self._taken)

    async def serve(
        self, look: Callable[[K], Awaitable[float | None]], *, workers: int = 1
    ) -> None:
        """Look for ever; ``look`` may return seconds after which to look at its key again.

        What fails comes again, later each time, while the others go on.
        """
        async with asyncio.TaskGroup() as tasks:
            for _ in range(workers):
                tasks.create_task(self._work(look))

    async def _work(self, look: Callable[[K], Awaitable[float | None]]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._waiting:
                self._bell.clear()
                await self._bell.wait()
            key = next(iter(self._waiting))
            del self._waiting[key]
            self._taken = monotonic()
            self._resting[key] = False
            rest, delay = self._pace_seconds, None
            try:
                delay = await look(key)
                self._failures.pop(key, None)
            except Exception as error:  # of any kind: one bad object must not stop the rest
                rest = self._retry_seconds(key, error)
                self._resting[key] = True
            loop.call_later(rest, self._rested, key)
            if delay is not None:
                loop.call_later(delay, self.ring, [key])

    def _rested(self, key: K) -> None:
        if self._resting.pop(key, False):
            self.ring([key])

    def _retry_seconds(self, key: K, error: Exception) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        seconds = min(self._first_retry_seconds * 2.0 ** (failures - 1), MAX_RETRY_SECONDS)
        log.warning(
            "will look again",
            key=str(key),
            attempt=failures,
            seconds=seconds,
            error=str(error) or type(error).__name__,
            exc_info=not isinstance(error, LiteLLMError | OSError) and failures == 1,
        )
        return seconds
