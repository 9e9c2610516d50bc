"""One generation on its way through the agent: from the client to a worker and back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import grpc.aio

from lite_llm.agent.workers import Worker
from lite_llm.contracts.errors import LiteLLMError
from lite_llm.proto.v1.generate_pb2 import GenerateEvent, GenerateRequest
from lite_llm.wire import Generation, Refused, error_of


class Stream:
    """Passes events on as fast as the client takes them, and the client's cancel to the worker."""

    def __init__(
        self,
        worker: Worker,
        first: GenerateRequest,
        others: AsyncIterator[GenerateRequest],
        changed: Callable[[Stream], None],
    ) -> None:
        """``changed`` is told when the worker began with the request, and when it is done with it:
        the client may still have events to read then."""
        self.running = False
        """Whether the worker has begun with it."""
        self.done = False
        """The worker has nothing more to do for it."""
        self._worker = worker
        self._changed = changed
        self._taken_away: LiteLLMError | None = None
        self._reader_has_it_since: float | None = None
        self._generation = Generation(worker.line, first, self._end)
        self._passing_on = asyncio.create_task(self._pass_on(others))

    async def events(self) -> AsyncIterator[list[GenerateEvent]]:
        """As many as have come; raises ``WorkerCrashed`` if the worker ends before the stream."""
        try:
            if self._taken_away is not None:
                raise self._taken_away
            async for events in self._generation:
                if not self.running:
                    self.running = True
                    self._changed(self)
                self._reader_has_it_since = time.monotonic()
                yield events
                self._reader_has_it_since = None
        except Refused as refusal:
            raise error_of(refusal.detail, where=str(self._worker.model)) from None
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as failure:
            # What we took away ourselves ends in a cancellation, too.
            if self._taken_away is not None:
                raise self._taken_away from None
            if isinstance(failure, asyncio.CancelledError):
                raise
            raise await self._worker.error_from(failure) from failure
        finally:
            self.close()

    def unread_seconds(self, now: float) -> float:
        """How long the client has not asked for the next event; 0 while it waits for one."""
        since = self._reader_has_it_since
        return 0.0 if since is None else now - since

    def take_away(self, error: LiteLLMError) -> None:
        """End it here; the client is told ``error``."""
        self._taken_away = error
        self.close()

    def close(self) -> None:
        """The client has all it wanted or is gone. May be called again."""
        self._passing_on.cancel()
        self._generation.cancel()
        self._end()

    def _end(self) -> None:
        if not self.done:
            self.done = True
            self._changed(self)

    async def _pass_on(self, others: AsyncIterator[GenerateRequest]) -> None:
        async for request in others:
            self._generation.send(request)
