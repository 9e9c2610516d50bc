"""What every server of a generation stream does with the client's side of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import structlog

from lite_llm.contracts.errors import InvalidRequest
from lite_llm.proto.v1.generate_pb2 import GenerateRequest, GenerateStart

START_SECONDS = 30.0  # from the call to its start; prompts are megabytes at most

log = structlog.get_logger(__name__)


async def start_of(requests: AsyncIterator[GenerateRequest]) -> GenerateStart:
    """The first message's start; :class:`InvalidRequest` if it is anything else, or none comes."""
    with suppress(TimeoutError):
        async with asyncio.timeout(START_SECONDS):
            async for request in requests:
                if request.HasField("start"):
                    return request.start
                break
    raise InvalidRequest("a generation begins with a start", where="action", remedy="send it first")


async def cancel_when_asked(
    requests: AsyncIterator[GenerateRequest], cancel: Callable[[], None]
) -> None:
    """Call ``cancel`` once the client sends its cancel; ends when the client has no more to say."""
    with suppress(asyncio.CancelledError):
        async for request in requests:
            if request.HasField("cancel"):
                log.info("generation cancelled", reason=request.cancel.reason)
                cancel()
                return


def at_end_of(context: Any, call: Callable[[], None]) -> None:
    """Call it when the client's call is over: also if it vanishes while a message is on its way.

    ``context`` is a gRPC servicer context, whose class in the stubs is no protocol of its own.
    """
    context.add_done_callback(lambda _: call())
