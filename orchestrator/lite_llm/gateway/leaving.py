"""The end of an orchestrator: what runs is finished, what has not begun is sent elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from aiohttp import web
from aiohttp.typedefs import Handler

from lite_llm.contracts.errors import NoAgent

RETRY_SECONDS = 1.0  # by then a balancer has found out

ENDING_SECONDS = 1.0  # for what does not end when it is told to
ARRIVING_SECONDS = 0.25  # for requests on lines that were opened just before the end


class Stopping(NoAgent):
    """This orchestrator stops: another one takes the request."""


class Leaving:
    """Knows the requests that are being answered."""

    def __init__(self) -> None:
        self.has_begun = False
        """Lines are closed after the next answer on them."""
        self.on_begin: list[Callable[[], None]] = []
        """Called at the beginning of the end: for answers that have none of their own."""
        self._over_at: float | None = None
        """When no request has any time left, on the loop's clock."""
        self._scopes: set[asyncio.Timeout] = set()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def leave(self, grace_seconds: float) -> None:
        """Returns when no request is left, or those beyond the grace were ended: with 503 if their
        clients were sent nothing, which clients answer by asking again."""
        self.has_begun = True
        for call in self.on_begin:
            call()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                await asyncio.sleep(ARRIVING_SECONDS)
                await self._is_idle.wait()
        self._over_at = asyncio.get_running_loop().time()
        for scope in self._scopes:
            scope.reschedule(self._over_at)
        with suppress(TimeoutError):
            async with asyncio.timeout(ENDING_SECONDS):
                await self._is_idle.wait()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Must lie within what words errors."""
        scope = asyncio.timeout_at(self._over_at)
        try:
            async with scope:
                self._scopes.add(scope)
                self._is_idle.clear()
                response = await handler(request)
        except TimeoutError:
            if not scope.expired():
                raise
            if request.writer.output_size:
                raise ConnectionResetError("the orchestrator stops") from None
            raise Stopping(
                "this orchestrator stops", remedy="ask again", retry_after=RETRY_SECONDS
            ) from None
        finally:
            self._scopes.discard(scope)
            if not self._scopes:
                self._is_idle.set()
        if self.has_begun:  # the client's next request goes to another orchestrator
            if not response.prepared:
                response.force_close()
            request.protocol.close()
        return response
