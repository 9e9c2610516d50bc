"""HTTP connections: how long a client may take, and what those hear who speak no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import HttpVersion11, web
from aiohttp.typedefs import Handler

HEADER_SECONDS = 30.0
"""For a request's line and headers, from its first byte, and for the first byte of a new
connection. Lines that have carried a request may be idle for longer than proxies keep theirs."""
MAX_WORDS = 300  # characters of what a parser says, which repeats what it was sent


class Connection(web.RequestHandler):
    """From one client."""

    __slots__ = ("_due", "_has_data", "_requests")

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._due: asyncio.TimerHandle | None = None
        self._has_data = False
        """Of a request that is not complete."""
        self._requests = 0
        """That are being answered."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._complete()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._requests:
            self._has_data = True
            self._expect()
        super().data_received(data)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP, in the shape of all errors; closes the connection."""
        self._complete()
        if request.writer.output_size:
            raise ConnectionError("an answer has begun")
        response = web.Response(
            status=status, body=_refusal(status, message or ""), content_type="application/json"
        )
        response.force_close()
        return response

    def _expect(self) -> None:
        if self._due is None:
            loop = asyncio.get_running_loop()
            self._due = loop.call_later(HEADER_SECONDS, self._too_slow)

    def _complete(self) -> None:
        self._has_data = False
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _too_slow(self) -> None:
        if self.transport is not None and self._has_data:
            body = _refusal(408, f"the headers did not come within {HEADER_SECONDS:g} s")
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\n"
                b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
        self.force_close()

    @staticmethod
    @web.middleware
    async def counting(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Tells the connection that a request has come whole, but for its body."""
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection._complete()
        connection._requests += 1
        try:
            return await handler(request)
        finally:
            connection._requests -= 1


def connections(server: web.Server) -> Callable[[], Connection]:
    """Makes one for each client of ``server``."""
    loop = asyncio.get_running_loop()
    # aiohttp inflates what it throws away, too: read_body has a bound
    return lambda: Connection(server, loop=loop, access_log=None, auto_decompress=False)


async def refuse_expectation(request: web.Request) -> web.StreamResponse | None:
    """``Expect: 100-continue`` is met before the body is read; anything else nobody knows."""
    if request.headers["Expect"].lower() != "100-continue":
        body = _refusal(417, "no expectation is met but 100-continue")
        return web.Response(status=417, body=body, content_type="application/json")
    if request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer has not begun
    return None


def _refusal(status: int, words: str) -> bytes:
    phrase = HTTPStatus(status).phrase
    kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    clipped = " ".join(words.split())[:MAX_WORDS]
    error = {
        "message": clipped or phrase,
        "type": kind,
        "param": None,
        "code": phrase.lower().replace(" ", "_"),
    }
    return msgspec.json.encode({"error": error})
