"""The body of a request, from a client that may be slow on purpose."""

from __future__ import annotations

import asyncio
import zlib
from typing import TypeVar

from aiohttp import web
from msgspec import Struct

from lite_llm.openai.schema import decode

S = TypeVar("S", bound=Struct)

BODY_SECONDS = 60.0  # the largest body allowed by default comes in time over 2 Mbit/s


async def read_body(request: web.Request, kind: type[S]) -> S:
    """The struct in the body; 408 if it does not come in time, 413 if it is too large.

    It may come compressed with gzip; 415 for anything else, 400 for what breaks off.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(
            text=f"the body did not come within {BODY_SECONDS:g} s"
        ) from None
    return decode(_plain(body, request), kind)


def _plain(body: bytes, request: web.Request) -> bytes:
    encoding, most = request.headers.get("Content-Encoding", "identity"), request.client_max_size
    if encoding.lower() == "identity":
        return body
    if encoding.lower() != "gzip":
        raise web.HTTPUnsupportedMediaType(text=f"a body in {encoding[:100]} is not read here")
    inflating = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        body = inflating.decompress(body, most + 1)
    except zlib.error as error:
        raise web.HTTPBadRequest(text=f"the body is no gzip: {error}") from None
    if len(body) > most:
        raise web.HTTPRequestEntityTooLarge(most, len(body))
    if not inflating.eof:
        raise web.HTTPBadRequest(text="the body's gzip breaks off")
    return body
