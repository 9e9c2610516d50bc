"""``/v1/completions``: one prompt in, text out, whole or as server-sent events."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

import msgspec
from aiohttp import web

from lite_llm.contracts.errors import AgentLost
from lite_llm.dispatch import Dispatcher
from lite_llm.gateway.failures import error_body, told
from lite_llm.gateway.measures import measured
from lite_llm.gateway.model_list import model_named
from lite_llm.gateway.schema import (
    Choice,
    Completion,
    CompletionRequest,
    FinishReason,
    Usage,
    decode,
)
from lite_llm.proto.v1 import generate_pb2
from lite_llm.proto.v1.generate_pb2 import GenerateEvent, GenerateFinished
from lite_llm.telemetry import Metrics

MODEL = web.RequestKey("model", str)
"""Which model a request turned out to be for; set by handlers, read by the measuring middleware."""

_FINISH: dict[int, FinishReason] = {
    generate_pb2.FINISH_REASON_STOP: "stop",
    generate_pb2.FINISH_REASON_LENGTH: "length",
}
_DONE = b"data: [DONE]\n\n"


class Completions:
    """The handler."""

    def __init__(self, dispatcher: Dispatcher, metrics: Metrics) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics

    async def create(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/completions``. A client that goes away takes its request along."""
        wanted = decode(await request.read(), CompletionRequest)
        model = model_named(wanted.model)
        answer = _Answer(f"cmpl-{uuid.uuid4().hex}", int(time.time()), wanted.model)
        start = wanted.to_start(answer.id, model)
        request[MODEL] = str(model)
        async with aclosing(measured(self._dispatcher, start, self._metrics)) as events:
            if wanted.stream:
                return await _streamed(request, events, answer, usage=wanted.include_usage)
            return await _whole(events, answer)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What all chunks of one answer share."""

    id: str
    created: int
    model: str

    def encoded(self, *choices: Choice, usage: Usage | None = None) -> bytes:
        return msgspec.json.encode(
            Completion(
                id=self.id, created=self.created, model=self.model, choices=choices, usage=usage
            )
        )


async def _whole(events: AsyncIterator[GenerateEvent], answer: _Answer) -> web.Response:
    pieces: list[str] = []
    finished = GenerateFinished()
    async for event in events:
        match event.WhichOneof("event"):
            case "tokens":
                pieces.append(event.tokens.text)
            case "finished":
                finished = event.finished
    choice = Choice(text="".join(pieces), finish_reason=_reason_of(finished))
    return web.Response(
        body=answer.encoded(choice, usage=Usage.of(finished.usage)),
        content_type="application/json",
        headers={"X-Request-Id": answer.id},
    )


async def _streamed(
    request: web.Request, events: AsyncIterator[GenerateEvent], answer: _Answer, *, usage: bool
) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            "X-Request-Id": answer.id,
        }
    )
    try:
        async for event in events:
            match event.WhichOneof("event"):
                case "started":  # what fails before this still gets an HTTP status of its own
                    await response.prepare(request)
                case "tokens" if event.tokens.text:
                    await response.write(_sse(answer.encoded(Choice(text=event.tokens.text))))
                case "finished":
                    last = Choice(text="", finish_reason=_reason_of(event.finished))
                    await response.write(_sse(answer.encoded(last)))
                    if usage:
                        counted = Usage.of(event.finished.usage)
                        await response.write(_sse(answer.encoded(usage=counted)))
                    await response.write(_DONE)
    except ConnectionError:
        raise
    except Exception as error:  # once a stream has begun, it is the only place to say so
        if not response.prepared:
            raise
        await response.write(_sse(error_body(told(error))))
    return response


def _sse(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def _reason_of(finished: GenerateFinished) -> FinishReason:
    reason = _FINISH.get(finished.reason)
    if reason is None:
        raise AgentLost("the agent gave the request up", where="agent", remedy="try again")
    return reason
