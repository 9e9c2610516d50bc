"""An answer to its client: whole, or as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from aiohttp import web
from msgspec import UNSET

from lite_llm.openai.answers import Answer, Piece
from lite_llm.openai.failures import error_body, told
from lite_llm.openai.schema import Explanation
from lite_llm.proto.v1.generate_pb2 import GenerateEvent

Events = AsyncIterator[tuple[int, Sequence[GenerateEvent]]]
"""As many as there are at a time, with the number of their prompt."""

HEARTBEAT_SECONDS = 10.0
"""Until a client that waits hears a first comment, and between comments.

Proxies cut lines that are silent for 30 or 60 s. But with the first comment the status is 200, and
clients retry by status: so what fails fast (no such model, no agent, a bad request) must come
before it.
"""
STUCK_SECONDS = 300.0
"""A client that takes nothing for so long is hung up on: its answer holds a place at an agent."""
_HEARTBEAT = b": waiting for the model\n\n"
_PAUSE = b": waiting for the next token\n\n"
_DONE = b"data: [DONE]\n\n"


async def whole(events: Events, answer: Answer, *, request_id: str, explains: bool) -> web.Response:
    """The answer at once, when all of it is known."""
    choices: list[list[Piece]] = []
    async for prompt, batch in events:
        for piece in answer.pieces(prompt, batch):
            choices.extend([] for _ in range(len(choices), piece.index + 1))
            choices[piece.index].append(piece)
    joined = [Piece.joined(index, pieces) for index, pieces in enumerate(choices)]
    told = answer.told
    return web.Response(
        body=answer.form.whole(joined, answer.usage, told if explains and told else UNSET),
        content_type="application/json",
        headers={"X-Request-Id": request_id, **(told.headers() if told else {})},
    )


async def streamed(
    request: web.Request,
    events: Events,
    answer: Answer,
    *,
    request_id: str,
    with_usage: bool,
    explains: bool,
) -> web.StreamResponse:
    """The answer as it grows, what is there by one write: a system call costs more than a token.

    A client that reads slowly slows down those who make its answer.
    """
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",  # nginx would gather tokens otherwise
            "X-Request-Id": request_id,
        }
    )

    heart = _Heart(request, response)

    async def send(prompt: int, batch: Sequence[GenerateEvent]) -> None:
        chunks: list[bytes] = []
        try:
            for piece in answer.pieces(prompt, batch):
                chunks += b"data: ", answer.form.chunk(piece), b"\n\n"
        finally:  # what was said before a lie is the client's
            if chunks:
                await response.write(b"".join(chunks))
                heart.wrote()

    try:
        first = await _first(request, response, events)
        if not response.prepared and first[1][0].HasField("started"):
            response.headers.update(Explanation.of(first[1][0].started).headers())
        await response.prepare(request)  # what fails before this has a status of its own
        with heart:
            await send(*first)
            async for prompt, batch in events:
                await send(prompt, batch)
        last = _sse(answer.form.told_chunk(answer.told)) if explains and answer.told else b""
        if with_usage:
            last += _sse(answer.form.usage_chunk(answer.usage))
        await response.write_eof(last + _DONE)
    except ConnectionError:
        raise
    except Exception as error:  # once a stream has begun, it is the only place to say so
        if not response.prepared:
            raise
        await response.write(_sse(error_body(told(error))))
    return response


class _Heart:
    """Keeps the line open while an answer pauses, as when it moves to another agent."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response
        self._loop = asyncio.get_running_loop()
        self._wrote_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def wrote(self) -> None:
        """The client was sent a piece of its answer."""
        self._wrote_at = self._loop.time()

    def __enter__(self) -> None:
        self._timer = self._loop.call_later(HEARTBEAT_SECONDS, self._beat)

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._writing is not None:
            self._writing.cancel()

    def _beat(self) -> None:
        quiet = self._loop.time() - self._wrote_at
        if quiet >= HEARTBEAT_SECONDS:
            transport = self._request.transport
            if quiet >= STUCK_SECONDS and transport and transport.get_write_buffer_size():
                transport.abort()
            elif self._writing is None or self._writing.done():
                self._writing = self._loop.create_task(self._comment())
            quiet = 0.0
        self._timer = self._loop.call_later(HEARTBEAT_SECONDS - quiet, self._beat)

    async def _comment(self) -> None:
        with contextlib.suppress(ConnectionError):  # the handler hears of it, too
            await self._response.write(_PAUSE)


async def _first(
    request: web.Request, response: web.StreamResponse, events: Events
) -> tuple[int, Sequence[GenerateEvent]]:
    """The first events of work on the answer, with comments to the client until it comes."""
    coming = asyncio.create_task(_begun(events))
    try:
        while not (await asyncio.wait({coming}, timeout=HEARTBEAT_SECONDS))[0]:
            await response.prepare(request)
            await response.write(_HEARTBEAT)
        return await coming
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def _begun(events: Events) -> tuple[int, Sequence[GenerateEvent]]:
    async for prompt, batch in events:
        if not batch[0].HasField("progress"):
            return prompt, batch
    raise AssertionError("dispatch ends no stream without an end of the answer")


def _sse(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
