"""The fleet over HTTP: the gRPC service's answers as JSON, and its changes as server-sent events.

Messages keep their proto field names; numbers of 64 bits are strings, as protobuf's JSON has them.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import Message

from lite_llm.contracts.errors import InvalidRequest
from lite_llm.dispatch import Dispatcher, Orders
from lite_llm.gateway.authentication import tenant_of
from lite_llm.gateway.fleet import difference, is_empty
from lite_llm.gateway.model_list import model_named, seen
from lite_llm.placement import ClusterView, Observed
from lite_llm.proto.v1.generate_pb2 import GenerateStart, TokenIds
from lite_llm.telemetry import Metrics, names
from lite_llm.wire import ref_to_proto

ACTIVITY_SECONDS = 1.0
"""Between two looks at what this orchestrator holds."""
PAUSE_SECONDS = 0.1
"""Between two events of the view: a herd of changes is told as one."""
SILENCE_SECONDS = 15.0
"""Proxies cut lines that are silent for 30 or 60 s."""


class Fleet:
    """The handlers; all but :meth:`scores` are for administrators."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        orders: Orders,
        views: Observed[ClusterView],
        metrics: Metrics,
    ) -> None:
        self._dispatcher = dispatcher
        self._orders = orders
        self._views = views
        self._watches: set[asyncio.Task[None]] = set()
        self._is_over = False
        self._held = metrics.registry.restricted_registry([names.HELD_REQUESTS.name])

    async def whole(self, request: web.Request) -> web.Response:
        """``GET /lite-llm/v1/fleet``: the view, and what is held here."""
        tenant_of(request).check_admin()
        view = _fields(difference(ClusterView(), self._views.value))
        return web.json_response({**view, "held_requests": self._held_requests()})

    async def watch(self, request: web.Request) -> web.StreamResponse:
        """``GET /lite-llm/v1/watch``: events ``view``, the first of them whole, and ``held``."""
        tenant_of(request).check_admin()
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
        )
        await response.prepare(request)
        telling = asyncio.create_task(self._tell(response))
        self._watches.add(telling)
        try:
            if not self._is_over:
                await asyncio.wait([telling])
        finally:
            telling.cancel()
            self._watches.discard(telling)
        return response

    def end_watches(self) -> None:
        """Watches have no end of their own, and would use up the grace of a server that stops."""
        self._is_over = True
        for telling in self._watches:
            telling.cancel()

    async def scores(self, request: web.Request) -> web.Response:
        """``GET /lite-llm/v1/scores?model=NAME[&token=ID…]``: every agent's score, best first."""
        tenant = tenant_of(request)
        model = model_named(_asked(request, "model"))
        tokens = request.query.getall("token", [])
        if not all(_is_token(token) for token in tokens):
            raise InvalidRequest(
                "a token is no number", where="token", remedy="give ids below 2**32"
            )
        model = seen(self._views.value, model, tenant)
        ids = TokenIds(ids=map(int, tokens))
        start = GenerateStart(model=ref_to_proto(model), token_ids=ids, tenant=tenant.name)
        return web.json_response(_fields(self._dispatcher.explain(start)))

    async def experts(self, request: web.Request) -> web.Response:
        """``GET /lite-llm/v1/experts?model=NAME[&node=NODE]``: where each expert lies."""
        tenant_of(request).check_admin()
        model = model_named(_asked(request, "model"))
        return web.json_response(
            _fields(await self._orders.experts(model, request.query.get("node", "")))
        )

    async def _tell(self, response: web.StreamResponse) -> None:
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._tell_view(response))
                both.create_task(self._tell_held(response))
        except* ConnectionError:  # the client is gone
            pass

    async def _tell_view(self, response: web.StreamResponse) -> None:
        known = ClusterView()
        async with aclosing(self._views.changes()) as changes:
            async for view in changes:
                event = difference(known, view)
                if view.is_synced and not (known.is_synced and is_empty(event)):
                    await response.write(_event("view", _fields(event)))
                    await asyncio.sleep(PAUSE_SECONDS)
                known = view

    async def _tell_held(self, response: web.StreamResponse) -> None:
        told: dict[str, int] | None = None
        silent = 0.0
        while True:
            held = self._held_requests()
            if held != told:
                await response.write(_event("held", held))
                told, silent = held, 0.0
            elif silent >= SILENCE_SECONDS:
                await response.write(b": still here\n\n")
                silent = 0.0
            await asyncio.sleep(ACTIVITY_SECONDS)
            silent += ACTIVITY_SECONDS

    def _held_requests(self) -> dict[str, int]:
        return {
            sample.labels["model"]: int(sample.value)
            for family in self._held.collect()
            for sample in family.samples
            if sample.value
        }


def _fields(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def _is_token(text: str) -> bool:
    return text.isdecimal() and len(text) <= len(str(1 << 32)) and int(text) < 1 << 32


def _asked(request: web.Request, name: str) -> str:
    if value := request.query.get(name, ""):
        return value
    raise InvalidRequest(f"{name} is missing", where=name, remedy=f"add ?{name}=NAME")
