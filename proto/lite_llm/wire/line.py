"""Several generations on one call, the client's side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from lite_llm.contracts.errors import InvalidRequest
from lite_llm.proto.v1.error_pb2 import ErrorDetail
from lite_llm.proto.v1.generate_pb2 import (
    GenerateEvent,
    GenerateRequest,
    StreamEvents,
    StreamRequest,
    StreamRequests,
)
from lite_llm.wire.multiplexed import BATCH_BYTES, MOST_BYTES

if TYPE_CHECKING:
    from lite_llm.proto.v1.agent_pb2_grpc import AgentAsyncStub

ENDLESS = 1 << 31
TAKEN = 64 << 10  # bytes of a stream, after which its server is told that they were read


class Refused(Exception):
    """A stream ended with an error of its server, which ``detail`` tells."""

    def __init__(self, detail: ErrorDetail) -> None:
        super().__init__(detail.message)
        self.detail = detail


class Line:
    """To one server, for all generations there; made anew when it breaks.

    A server that knows no ``GenerateMany`` is sent each generation on a call of its own.
    """

    def __init__(self, stub: AgentAsyncStub) -> None:
        self.stub = stub
        self._is_single = False
        self._call: _Call | None = None

    @contextmanager
    def generation(
        self, first: GenerateRequest, on_over: Callable[[], None] | None = None
    ) -> Iterator[Generation]:
        """Sends ``first``; what is not over at the end of the block is withdrawn.

        ``on_over`` is called when the last event has come, whether or not it was read. Raises
        :class:`InvalidRequest` for what is too large to be sent.
        """
        generation = Generation(self, first, on_over)
        try:
            yield generation
        finally:
            generation.cancel()

    def close(self) -> None:
        """End every generation."""
        if self._call is not None:
            self._call.close()

    def opened(self) -> _Call | None:
        """The call that new generations use; None where each has its own."""
        if self._is_single:
            return None
        if self._call is None or self._call.is_over:
            self._call = _Call(self.stub)
        return self._call

    def does_without(self, failure: grpc.aio.AioRpcError) -> bool:
        """Whether a call failed because this server is of an older version."""
        self._is_single |= failure.code() is grpc.StatusCode.UNIMPLEMENTED
        return self._is_single


class Generation:
    """Lists of events, as many as have come; iterated once.

    Raises ``AioRpcError`` when the line breaks, :class:`Refused`, and ``CancelledError`` in whoever
    iterates when somebody else cancels it.
    """

    def __init__(
        self, line: Line, first: GenerateRequest, on_over: Callable[[], None] | None = None
    ) -> None:
        if (size := first.ByteSize()) > MOST_BYTES:  # it would end the line for all others
            raise InvalidRequest(
                f"the request has {size} bytes", remedy=f"send {MOST_BYTES} at most"
            )
        self._line = line
        self._first = first
        self._on_over = on_over or (lambda: None)
        self._stream: _Stream | None = None
        self._single: grpc.aio.StreamStreamCall[GenerateRequest, GenerateEvent] | None = None
        self._further: asyncio.Queue[GenerateRequest] = asyncio.Queue()
        if (call := line.opened()) is not None:
            self._stream = call.begin(first, self._on_over)

    def send(self, request: GenerateRequest) -> None:
        """Ask for something further: to cancel it with a last event."""
        if self._stream is not None:
            self._stream.send(request)
        self._further.put_nowait(request)

    def hurry(self) -> None:
        """Let all events come, as many as there are, whether or not they are read."""
        if self._stream is not None:
            self._stream.take(ENDLESS)

    def cancel(self) -> bool:
        """Withdraw it; the server's work ends."""
        if self._stream is not None:
            self._stream.cancel()
        if self._single is not None:
            self._single.cancel()
        return True

    async def __aiter__(self) -> AsyncIterator[list[GenerateEvent]]:
        if self._stream is not None:
            try:
                async for events in self._stream:
                    yield events
                return
            except grpc.aio.AioRpcError as failure:
                if not self._line.does_without(failure):
                    raise
        self._single = self._line.stub.Generate(self._requests())
        self._single.add_done_callback(lambda _: self._on_over())
        async for event in self._single:
            yield [event]

    async def _requests(self) -> AsyncIterator[GenerateRequest]:
        yield self._first
        while True:
            yield await self._further.get()


class _Call:
    def __init__(self, stub: AgentAsyncStub) -> None:
        self.is_over = False
        self._streams: dict[int, _Stream] = {}
        self._numbers = count()
        self._asked: deque[StreamRequests] = deque()
        self._num_bytes = 0
        """Of the last message that is to be sent."""
        self._has_asked = asyncio.Event()
        self._call = stub.GenerateMany(self._requests())
        self._reading = asyncio.create_task(self._read(self._call))

    def begin(self, first: GenerateRequest, on_over: Callable[[], None]) -> _Stream:
        number = next(self._numbers)
        stream = self._streams[number] = _Stream(self, number, on_over)
        stream.send(first)
        return stream

    def ask(self, request: StreamRequest) -> None:
        if self.is_over:
            return
        size = request.ByteSize()
        if not self._asked or self._num_bytes + size > BATCH_BYTES:
            self._asked.append(StreamRequests())
            self._num_bytes = 0
        self._asked[-1].requests.append(request)
        self._num_bytes += size
        self._has_asked.set()

    def forget(self, number: int) -> None:
        self._streams.pop(number, None)

    def close(self) -> None:
        self._call.cancel()

    async def _requests(self) -> AsyncIterator[StreamRequests]:
        while True:
            while self._asked:
                yield self._asked.popleft()
            self._has_asked.clear()
            await self._has_asked.wait()

    async def _read(self, call: grpc.aio.StreamStreamCall[StreamRequests, StreamEvents]) -> None:
        broken: grpc.aio.AioRpcError | None = None
        try:
            async for batch in call:
                for told in batch.events:
                    if (stream := self._streams.get(told.stream)) is None:
                        continue  # withdrawn meanwhile
                    match told.WhichOneof("action"):
                        case "event":
                            stream.heard(told.event)
                        case "failed":
                            stream.end(Refused(told.failed))
                        case "ended":
                            stream.end(StopAsyncIteration())
            broken = _ended_early()  # by a server that stops
        except grpc.aio.AioRpcError as failure:
            broken = failure
        finally:  # else it was us
            self.is_over = True
            call.cancel()
            for stream in list(self._streams.values()):
                stream.end(_again(broken) if broken else asyncio.CancelledError())


class _Stream:
    def __init__(self, call: _Call, number: int, on_over: Callable[[], None]) -> None:
        self._call = call
        self._number = number
        self._on_over = on_over
        self._events: list[GenerateEvent] = []
        self._num_bytes = 0
        """Of events that were not read."""
        self._end: BaseException | None = None
        self._changed = asyncio.Event()

    def send(self, request: GenerateRequest) -> None:
        self._call.ask(StreamRequest(stream=self._number, request=request))

    def take(self, num_bytes: int) -> None:
        """So much was read."""
        self._call.ask(StreamRequest(stream=self._number, taken=num_bytes))

    def heard(self, event: GenerateEvent) -> None:
        if self._events:  # its reader is behind: do not keep the whole message of many for it
            event, whole = GenerateEvent(), event
            event.CopyFrom(whole)
        self._events.append(event)
        self._num_bytes += event.ByteSize()
        self._changed.set()

    def end(self, how: BaseException) -> None:
        """There are no more events; ``how`` is raised when they are read."""
        self._end = how
        self._call.forget(self._number)
        self._changed.set()
        self._on_over()

    def cancel(self) -> None:
        if self._end is None:
            self._call.ask(StreamRequest(stream=self._number, closed=True))
            self._events.clear()
            self.end(asyncio.CancelledError())

    async def __aiter__(self) -> AsyncIterator[list[GenerateEvent]]:
        taken = 0
        while True:
            if self._events:
                events, self._events = self._events, []
                taken += self._num_bytes
                self._num_bytes = 0
                yield events
                if taken >= TAKEN:
                    self.take(taken)
                    taken = 0
            elif isinstance(self._end, StopAsyncIteration):
                return
            elif self._end is not None:
                raise self._end
            else:
                self._changed.clear()
                await self._changed.wait()


def _ended_early() -> grpc.aio.AioRpcError:
    nothing = grpc.aio.Metadata()
    words = "the server ended the line"
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, words)


def _again(failure: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
    """One for each of many readers: an exception remembers who raised it."""
    return grpc.aio.AioRpcError(
        failure.code(),
        failure.initial_metadata(),
        failure.trailing_metadata(),
        failure.details(),
        failure.debug_error_string(),
    )
