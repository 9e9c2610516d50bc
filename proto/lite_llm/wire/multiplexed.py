"""Several generations on one call, the server's side: what is ready of all of them is one message.

A message costs gRPC some hundred microseconds of processor time on each side, whatever is in it:
too much for one token.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

from lite_llm.contracts.errors import InvalidRequest, NoAgent
from lite_llm.proto.v1.generate_pb2 import (
    GenerateEvent,
    GenerateRequest,
    StreamEvent,
    StreamEvents,
    StreamRequest,
    StreamRequests,
)
from lite_llm.wire.endpoints import MAX_MESSAGE_BYTES
from lite_llm.wire.failures import detail_of, own

WINDOW = 256 << 10  # bytes of one stream that its client has not read: then the stream waits
BATCH_BYTES = 1 << 20  # of one message, give or take an event
MOST_BYTES = MAX_MESSAGE_BYTES - (1 << 10)
"""Of what one stream says at a time: a message that gRPC refuses would end all streams."""

Generate = Callable[[AsyncIterator[GenerateRequest], Any], AsyncIterator[GenerateEvent]]
"""A servicer's method; of a context it may use ``add_done_callback``."""


class Multiplexed:
    """``GenerateMany`` of a server that has ``Generate``."""

    def __init__(self, generate: Generate) -> None:
        self._generate = generate
        self._calls: set[_Call] = set()
        self._is_closed = False

    async def serve(self, requests: AsyncIterator[StreamRequests]) -> AsyncGenerator[StreamEvents]:
        """One call, to its end. Streams whose client is gone are cancelled."""
        call = _Call(self._generate)
        self._calls.add(call)
        if self._is_closed:
            call.close()
        try:
            async with aclosing(call.batches(requests)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self._calls.discard(call)

    def close(self) -> None:
        """Take no more streams; calls end with the last stream that they have."""
        self._is_closed = True
        for call in self._calls:
            call.close()


class _Call:
    def __init__(self, generate: Generate) -> None:
        self._generate = generate
        self._streams: dict[int, _Stream] = {}
        self._ready: deque[StreamEvents] = deque()
        self._num_bytes = 0
        """Of the last message that is ready."""
        self._changed = asyncio.Event()
        self._is_closed = False

    async def batches(
        self, requests: AsyncIterator[StreamRequests]
    ) -> AsyncGenerator[StreamEvents]:
        listening = asyncio.create_task(self._listen(requests))
        try:
            while self._ready or self._streams or not self._is_closed:
                if self._ready:
                    yield self._ready.popleft()
                else:
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            listening.cancel()
            streams = list(self._streams.values())
            for stream in streams:
                stream.close()
            await asyncio.gather(
                listening, *(stream.task for stream in streams), return_exceptions=True
            )

    def close(self) -> None:
        self._is_closed = True
        self._changed.set()

    async def _listen(self, requests: AsyncIterator[StreamRequests]) -> None:
        try:
            async for message in requests:
                for request in message.requests:
                    self._heard(request)
        finally:
            self.close()

    def _heard(self, request: StreamRequest) -> None:
        stream = self._streams.get(request.stream)
        match request.WhichOneof("action"):
            case "request":
                if stream is None:
                    stream = self._streams[request.stream] = _Stream()
                    stream.task = asyncio.create_task(self._run(request.stream, stream))
                    # A task that is cancelled before its first step runs none of its own blocks.
                    stream.task.add_done_callback(partial(self._ended, request.stream, stream))
                stream.requests.put_nowait(request.request)
            case "taken" if stream is not None:
                stream.taken(request.taken)
            case "closed" if stream is not None:
                stream.close()

    async def _run(self, number: int, stream: _Stream) -> None:
        try:
            if self._is_closed:
                raise NoAgent("the server stops", remedy="choose another agent")
            async with aclosing(self._generate(stream.asked(), stream)) as events:  # type: ignore[type-var]  # handlers are generators
                async for event in events:
                    self._say(StreamEvent(stream=number, event=event))
                    await stream.sent(event.ByteSize())
            self._say(StreamEvent(stream=number, ended=True))
        except (Exception, asyncio.CancelledError) as error:
            if stream.is_closed:
                return  # nobody listens
            self._say(StreamEvent(stream=number, failed=detail_of(own(error))))

    def _ended(self, number: int, stream: _Stream, _: asyncio.Task[None]) -> None:
        del self._streams[number]
        stream.over()
        self._changed.set()

    def _say(self, event: StreamEvent) -> None:
        if (size := event.ByteSize()) > MOST_BYTES:
            raise InvalidRequest(
                f"the answer has a part of {size} bytes, of {MOST_BYTES} at most",
                where="sampling",
                remedy="ask for fewer logprobs, or with a shorter prompt",
            )
        if not self._ready or self._num_bytes + size > BATCH_BYTES:
            self._ready.append(StreamEvents())
            self._num_bytes = 0
        self._ready[-1].events.append(event)
        self._num_bytes += size
        self._changed.set()


class _Stream:
    """Of one client's generation; what its handler takes for the context of a call."""

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.requests: asyncio.Queue[GenerateRequest] = asyncio.Queue()
        self.is_closed = False
        self._callbacks: list[Callable[[Any], object]] = []
        self._room = WINDOW
        self._has_room = asyncio.Event()

    async def asked(self) -> AsyncIterator[GenerateRequest]:
        while True:
            yield await self.requests.get()

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self._callbacks.append(callback)

    async def sent(self, num_bytes: int) -> None:
        """Returns when the client may be sent another event."""
        self._room -= num_bytes
        while self._room <= 0:
            self._has_room.clear()
            await self._has_room.wait()

    def taken(self, num_bytes: int) -> None:
        self._room += num_bytes
        self._has_room.set()

    def close(self) -> None:
        """The client wants no more. May be called again."""
        self.is_closed = True
        self.task.cancel()
        self.over()

    def over(self) -> None:
        """Tell those who asked to be told."""
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)
