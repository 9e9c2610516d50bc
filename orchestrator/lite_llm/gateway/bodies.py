"""The body of a request, from a client that may be slow on purpose."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from aiohttp import web
from msgspec import Struct

from lite_llm.gateway.schema import decode

S = TypeVar("S", bound=Struct)

BODY_SECONDS = 60.0  # the largest body allowed by default comes in time over 2 Mbit/s


async def read_body(request: web.Request, kind: type[S]) -> S:
    """The struct in the body; 408 if it does not come in time, 413 if it is too large."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(
            text=f"the body did not come within {BODY_SECONDS:g} s"
        ) from None
    return decode(body, kind)
