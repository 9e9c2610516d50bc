"""A service whose handlers do what a test tells them, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest

from lite_llm.wire import Endpoint, closing_call, open_channel, serving

FAULTY = "lite_llm.test.Faulty"
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


@dataclass
class Faulty:
    """Answers with bytes, then raises ``error``; waits for ever when told to."""

    error: BaseException | None = None
    waits: bool = False
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def one(self, request: Any, context: object) -> bytes:
        if self.waits:
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        if self.error is not None:
            raise self.error
        return b"answer"

    async def many(self, request: Any, context: object) -> AsyncIterator[bytes]:
        yield b"first"
        yield await self.one(request, context)

    def add_to(self, server: grpc.aio.Server) -> None:
        handlers = {
            kind: getattr(grpc, f"{kind}_rpc_method_handler")(
                self.many if kind.endswith("_stream") else self.one
            )
            for kind in KINDS
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(FAULTY, handlers)])


@dataclass
class Peer:
    """Both ends of one connection."""

    service: Faulty
    endpoint: Endpoint
    channel: grpc.aio.Channel

    async def call(self, kind: str = "unary_unary", **options: Any) -> list[bytes]:
        """The answers to one call of the given kind."""
        method: Any = getattr(self.channel, kind)(f"/{FAULTY}/{kind}")
        requests = [b"request"]
        asked = iter(requests) if kind.startswith("stream") else b"request"
        with closing_call(method(asked, **options)) as call:
            if kind.endswith("_stream"):
                return [answer async for answer in call]
            return [await call]


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    service = Faulty()
    async with (
        serving("127.0.0.1:0", {FAULTY: service.add_to}, grace=0) as endpoint,
        open_channel(f"127.0.0.1:{endpoint.port}") as channel,
    ):
        yield Peer(service, endpoint, channel)
