"""An answer to its client: whole, or as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web
from msgspec import UNSET

from lite_llm.gateway.answers import Answer, Piece
from lite_llm.gateway.failures import error_body, told
from lite_llm.gateway.schema import Explanation
from lite_llm.proto.v1.generate_pb2 import GenerateEvent

Events = AsyncIterator[tuple[int, GenerateEvent]]
"""Each with the number of its prompt."""

HEARTBEAT_SECONDS = 10.0
"""Until a held request's client hears a first comment, and between comments.

Proxies cut lines that are silent for 30 or 60 s. But with the first comment the status is 200, and
clients retry by status: so what fails fast (no such model, no agent, a bad request) must come
before it.
"""
_HEARTBEAT = b": waiting for the model\n\n"
_DONE = b"data: [DONE]\n\n"


async def whole(events: Events, answer: Answer, *, request_id: str, explains: bool) -> web.Response:
    """The answer at once, when all of it is known."""
    choices: list[list[Piece]] = []
    async for prompt, event in events:
        for piece in answer.pieces(prompt, event):
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
    """The answer as it grows. A client that reads slowly slows down those who make it."""
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",  # nginx would gather tokens otherwise
            "X-Request-Id": request_id,
        }
    )

    async def send(prompt: int, event: GenerateEvent) -> None:
        for piece in answer.pieces(prompt, event):
            await response.write(_sse(answer.form.chunk(piece)))

    try:
        first = await _first(request, response, events)
        if not response.prepared and first[1].HasField("started"):
            response.headers.update(Explanation.of(first[1].started).headers())
        await response.prepare(request)  # what fails before this has a status of its own
        await send(*first)
        async for prompt, event in events:
            await send(prompt, event)
        if explains and answer.told:
            await response.write(_sse(answer.form.told_chunk(answer.told)))
        if with_usage:
            await response.write(_sse(answer.form.usage_chunk(answer.usage)))
        await response.write(_DONE)
    except ConnectionError:
        raise
    except Exception as error:  # once a stream has begun, it is the only place to say so
        if not response.prepared:
            raise
        await response.write(_sse(error_body(told(error))))
    return response


async def _first(
    request: web.Request, response: web.StreamResponse, events: Events
) -> tuple[int, GenerateEvent]:
    """The first event of work on the answer, with comments to the client until it comes."""
    coming = asyncio.create_task(_begun(events))
    try:
        while not (await asyncio.wait({coming}, timeout=HEARTBEAT_SECONDS))[0]:
            await response.prepare(request)
            await response.write(_HEARTBEAT)
        return await coming
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def _begun(events: Events) -> tuple[int, GenerateEvent]:
    async for prompt, event in events:
        if not event.HasField("progress"):
            return prompt, event
    raise AssertionError("dispatch ends no stream without an end of the answer")


def _sse(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
