"""One thread for all that computes, so that the event loop of the worker always answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Over:
    error: BaseException | None = None


class Job(AsyncIterator[T], Generic[T]):
    """An iterator that advances in the compute thread, read asynchronously in the event loop.

    It advances whether its items are read or not: who reads slowly slows down nobody else.
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._loop = asyncio.get_running_loop()
        self._outbox: asyncio.Queue[T | _Over] = asyncio.Queue()
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` came before the end."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """End before the next item is computed; reading ends at once. May be called at any time."""
        self._cancelled.set()
        self._outbox.put_nowait(_Over())

    async def __anext__(self) -> T:
        item = await self._outbox.get()
        if not isinstance(item, _Over):
            return item
        self._outbox.put_nowait(item)  # whoever asks again gets the same answer
        if item.error is not None:
            raise item.error
        raise StopAsyncIteration

    def run(self) -> None:
        """The work, to be called in the compute thread."""
        error: BaseException | None = None
        try:
            while not self.cancelled:
                self._deliver(next(self._items))
        except StopIteration:
            pass
        except BaseException as raised:  # it belongs to the reader, whatever it is
            error = raised
        self._deliver(_Over(error))

    def _deliver(self, item: T | _Over) -> None:
        self._loop.call_soon_threadsafe(self._outbox.put_nowait, item)


class ComputeThread:
    """Runs jobs one after another, in order of arrival; use as a context manager."""

    def __init__(self, prepare: Callable[[], None]) -> None:
        """``prepare`` runs first, in the thread."""
        self._executor = ThreadPoolExecutor(1, "compute", initializer=prepare)
        self._jobs: list[Job[Any]] = []

    def submit(self, items: Iterator[T]) -> Job[T]:
        """Line up ``items``; call it in the event loop."""
        job = Job(items)
        self._executor.submit(job.run)
        self._jobs.append(job)  # for good: a worker's life has a load or two and one engine
        return job

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for job in self._jobs:
            job.cancel()
        self._executor.shutdown()
