"""The step loop's door: requests go in from the event loop, steps come back to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from queue import SimpleQueue

from lite_llm.contracts.errors import Overloaded
from lite_llm.engine.request import Failed, Finished, Request, Step
from lite_llm.engine.sequence import Group
from lite_llm.engine.step_loop import StepLoop

QUEUE_REQUESTS, QUEUE_BYTES = 1024, 64 << 20
"""That wait at most; bytes are those of their prompts' tokens, of which each sequence has a copy.

The first to wait may have more."""
TOKEN_BYTES = 8
OUTBOX_STEPS = 256  # unread, of one request: some seconds of tokens, and it is cheap to hold them
RETRY_SECONDS = 1.0  # after which a full queue has had time for some steps


class Engine:
    """Made and called in the event loop, but for :meth:`run`, which is the compute thread's."""

    def __init__(self, steps: StepLoop) -> None:
        self._steps = steps
        self._loop = asyncio.get_running_loop()
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._unsent: list[tuple[Answering, Step]] = []
        self._answering: set[Answering] = set()
        # Two plain values that one thread changes and another looks at need no lock.
        self.steps = 0
        """That ended."""
        self.stepping = False
        """One runs now; where it does for long, something hangs."""

    @property
    def running(self) -> int:
        """Requests that compute or did."""
        return len(self._answering) - self.waiting

    @property
    def waiting(self) -> int:
        """Requests whose turn has not come."""
        return sum(not each.is_started for each in self._answering)

    def submit(self, request: Request) -> Answering:
        """Queue ``request``; :class:`Overloaded` if too much waits already."""
        ahead = [each for each in self._answering if not each.is_started]
        held = sum(each.num_bytes for each in ahead)
        too_large = bool(ahead) and held + _bytes_of(request) > QUEUE_BYTES
        if len(ahead) >= QUEUE_REQUESTS or too_large:
            raise Overloaded(
                f"{len(ahead)} requests of {held} bytes wait for this model",
                where="queue",
                remedy="try again later, or elsewhere",
                retry_after=RETRY_SECONDS,
            )
        answering = Answering(self, request)
        self._answering.add(answering)
        self._calls.put(partial(self._add, answering))
        return answering

    def close(self) -> None:
        """End :meth:`run`, and every answer without a word."""
        self._calls.put(None)
        for answering in list(self._answering):
            answering.cancel()

    def run(self) -> Iterator[None]:
        """The compute thread's life: steps while there is work, sleep while there is none.

        A job of the thread like any other, but one that has nothing to tell.
        """
        able = False
        while True:
            while not (able and self._calls.empty()):
                call = self._calls.get()
                if call is None:
                    self._steps.close()
                    yield from ()
                    return
                call()
                able = True
            self.stepping = True
            able = self._steps.step()
            self.stepping, self.steps = False, self.steps + 1
            self._send()

    def wake(self) -> None:
        """Something changed that the compute thread may wait for."""
        self._calls.put(_nothing)

    def drop(self, answering: Answering) -> None:
        """Nobody reads it any more."""
        if answering in self._answering:
            self._answering.remove(answering)
            self._calls.put(partial(self._cancel, answering))

    def post(self, answering: Answering, step: Step) -> None:
        """The compute thread's: to be sent with all others of the same engine step."""
        self._unsent.append((answering, step))

    def _add(self, answering: Answering) -> None:
        answering.group = self._steps.add(answering.request, answering)
        self._send()

    def _cancel(self, answering: Answering) -> None:
        if answering.group is not None:
            self._steps.cancel(answering.group)

    def _send(self) -> None:
        if self._unsent:
            self._loop.call_soon_threadsafe(_deliver, self._unsent)
            self._unsent = []


class Answering(AsyncIterator[Step]):
    """The steps of one answer; reading ends with its last. :meth:`cancel` may come at any time.

    When too many lie unread, the request pauses: who reads slowly slows down nobody else.
    """

    def __init__(self, engine: Engine, request: Request) -> None:
        self.request = request
        self.group: Group | None = None
        """The compute thread's."""
        self.is_started = False
        self.is_cancelled = False
        """:meth:`cancel` came before the end."""
        self._engine = engine
        self._inbox: asyncio.Queue[Step | None] = asyncio.Queue()
        self._num_left = len([each for each in request.resumed if not each.finished]) or request.n
        # Two counts and no lock: each is changed by one thread only.
        self._num_put = self._num_read = 0

    @property
    def num_bytes(self) -> int:
        """Of the prompt's copies."""
        return _bytes_of(self.request)

    @property
    def full(self) -> bool:
        """So many steps lie unread that the request pauses."""
        return self._num_put - self._num_read >= OUTBOX_STEPS

    def put(self, step: Step) -> None:
        """The compute thread's."""
        self._num_put += 1
        self._engine.post(self, step)

    def deliver(self, step: Step) -> None:
        """The event loop's end of :meth:`put`."""
        self.is_started = True
        self._inbox.put_nowait(step)

    def cancel(self) -> None:
        """Let go of what is left; reading ends at once. Nothing if it is over."""
        if self._num_left and not self.is_cancelled:
            self.is_cancelled = True
            self._inbox.put_nowait(None)
            self._engine.drop(self)

    async def __anext__(self) -> Step:
        """Raises what the request failed by."""
        if self.is_cancelled or not self._num_left:
            raise StopAsyncIteration
        step = await self._inbox.get()
        if step is None or self.is_cancelled:
            raise StopAsyncIteration
        self._num_read += 1
        # Looked at after it is counted: the other thread may have paused just before.
        if self._num_put - self._num_read == OUTBOX_STEPS - 1:
            self._engine.wake()
        if isinstance(step, Finished | Failed):
            self._num_left = 0 if isinstance(step, Failed) else self._num_left - 1
            if not self._num_left:
                self._engine.drop(self)
        if isinstance(step, Failed):
            raise step.error
        return step


def _deliver(steps: list[tuple[Answering, Step]]) -> None:
    for answering, step in steps:
        answering.deliver(step)


def _bytes_of(request: Request) -> int:
    return TOKEN_BYTES * len(request.prompt) * request.n


def _nothing() -> None:
    """A call that only wakes."""
