"""Threads that fetch while a step computes: demand before what is only expected.

A step is synchronous, so its fetches run on plain threads that it can wait for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from itertools import count
from queue import Empty, PriorityQueue
from typing import Final, Generic, TypeVar

from lite_llm.contracts.errors import Cancelled, LiteLLMError
from lite_llm.experts.missing import as_error

DEMAND: Final = 0.0
"""The urgency of what a step waits for; greater ones can wait."""

Tools = TypeVar("Tools")


class _State(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    OVER = "over"


class Job(Generic[Tools]):
    """One piece of work. It begins once, or is cancelled before."""

    def __init__(self, work: Callable[[Tools], None], after: Sequence[Job[Tools]] = ()) -> None:
        """``after``: running ones that have to end first."""
        self.error: LiteLLMError | None = None
        """Why it failed, once it is over."""
        self._work = work
        self._after = after
        self._state = _State.WAITING
        self._lock = threading.Lock()
        self._over = threading.Event()

    @property
    def is_over(self) -> bool:
        """Done, failed or cancelled."""
        return self._state is _State.OVER

    @property
    def has_failed(self) -> bool:
        """Whether it is over and its work is not done."""
        return self.is_over and self.error is not None

    def cancel(self) -> bool:
        """Whether it won't run, nor is running, any more."""
        with self._lock:
            if self._state is _State.WAITING:
                self._end(Cancelled("another expert took the place", where="experts"))
            return self.is_over

    def wait(self) -> None:
        """Until it is over."""
        self._over.wait()

    def run(self, tools: Tools) -> None:
        """On one of the crew's threads; does nothing if it began or was cancelled before."""
        with self._lock:
            if self._state is not _State.WAITING:
                return
            self._state = _State.RUNNING
        error: LiteLLMError | None = None
        try:
            for other in self._after:
                other.wait()
            self._work(tools)
        except BaseException as raised:  # of any kind: it belongs to those who wait
            error = as_error(raised)
        with self._lock:
            self._end(error)

    def _end(self, error: LiteLLMError | None) -> None:
        self.error = error
        self._work, self._after = _nothing, ()  # which may hold memory of experts
        self._state = _State.OVER
        self._over.set()


def _nothing(tools: object) -> None:
    """Done already."""


class Crew(Generic[Tools]):
    """Threads with tools of their own."""

    def __init__(self, name: str, tools: Sequence[Tools]) -> None:
        """A thread for each of ``tools``."""
        self._queue: PriorityQueue[tuple[float, int, Job[Tools] | None]] = PriorityQueue()
        self._order = count()
        self._threads = [
            threading.Thread(target=self._serve, args=[one], name=f"{name}-{number}", daemon=True)
            for number, one in enumerate(tools)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job[Tools], urgency: float = DEMAND) -> None:
        """Run it in its turn: the smallest urgency first, the earliest among equals.

        Once more, with a smaller one, puts it forward.
        """
        self._queue.put((urgency, next(self._order), job))

    def close(self) -> None:
        """Cancel what has not begun, and end the threads when the rest is over."""
        with suppress(Empty):
            while (job := self._queue.get_nowait()[2]) is not None:
                job.cancel()
        for _ in self._threads:
            self._queue.put((float("inf"), next(self._order), None))
        for thread in self._threads:
            thread.join()

    def _serve(self, tools: Tools) -> None:
        while (job := self._queue.get()[2]) is not None:
            job.run(tools)
