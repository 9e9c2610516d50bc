"""One generation on its way through the agent: from the client to a worker and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc.aio

from lite_llm.agent.workers import Worker
from lite_llm.contracts.errors import LiteLLMError
from lite_llm.proto.v1.generate_pb2 import GenerateEvent, GenerateRequest


class Stream:
    """Passes events on as fast as the client takes them, and the client's cancel to the worker."""

    def __init__(
        self,
        worker: Worker,
        first: GenerateRequest,
        others: AsyncIterator[GenerateRequest],
        changed: Callable[[Stream], None],
    ) -> None:
        """``changed`` is told when the worker began with the request, and when it is over."""
        self.running = False
        """Whether the worker has begun with it."""
        self.closed = False
        self._worker = worker
        self._changed = changed
        self._taken_away: LiteLLMError | None = None
        self._call = worker.stub.Generate(_chained(first, others))

    async def events(self) -> AsyncIterator[GenerateEvent]:
        """Raises ``WorkerCrashed`` if the worker ends before the stream does."""
        try:
            async for event in self._call:
                if not self.running:
                    self.running = True
                    self._changed(self)
                yield event
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as failure:
            # A call that we cancelled ourselves ends in either, as grpc's timing has it.
            if self._taken_away is not None:
                raise self._taken_away from None
            if isinstance(failure, asyncio.CancelledError):
                raise
            raise await self._worker.error_from(failure) from failure
        finally:
            self.close()

    def take_away(self, error: LiteLLMError) -> None:
        """End it here; the client is told ``error``."""
        self._taken_away = error
        self._call.cancel()

    def close(self) -> None:
        """The client has all it wanted or is gone. May be called again."""
        if not self.closed:
            self.closed = True
            self._call.cancel()
            self._changed(self)


async def _chained(
    first: GenerateRequest, others: AsyncIterator[GenerateRequest]
) -> AsyncIterator[GenerateRequest]:
    yield first
    async for request in others:
        yield request
