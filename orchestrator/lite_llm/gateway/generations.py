"""The endpoints that generate: from a request's body to agents, and back as its form words it."""

from __future__ import annotations

from aiohttp import web

from lite_llm.contracts import ModelRef
from lite_llm.dispatch import Dispatcher
from lite_llm.gateway.authentication import tenant_of
from lite_llm.gateway.measures import measured
from lite_llm.gateway.model_list import check_can, seen
from lite_llm.openai import Asked, asked_chat, asked_completion
from lite_llm.openai.merging import merged
from lite_llm.telemetry import Metrics
from lite_llm.tenants import Admission
from lite_llm.wire import ref_to_proto

MODEL = web.RequestKey("model", ModelRef)
"""Which model a request turned out to be for; set by handlers, read by the measuring middleware."""


class Generations:
    """The handlers. A client that goes away takes its request along."""

    def __init__(self, dispatcher: Dispatcher, metrics: Metrics, admission: Admission) -> None:
        self._dispatcher = dispatcher
        self._admission = admission
        self._metrics = metrics

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/chat/completions``."""
        return await self._respond(request, await asked_chat(request))

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/completions``."""
        return await self._respond(request, await asked_completion(request))

    async def _respond(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        tenant = tenant_of(request)
        model = request[MODEL] = seen(self._dispatcher.view, asked.model, tenant)
        check_can(self._dispatcher.view, model, asked.starts)
        for start in asked.starts:
            start.model.CopyFrom(ref_to_proto(model))
            tenant.stamp(start)
        streams = [
            measured(self._dispatcher, start, self._metrics, explains=asked.wanted.explains)
            for start in asked.starts
        ]
        async with (
            self._admission.admitted(tenant, asked.num_choices),
            merged(streams) as events,
        ):
            return await asked.respond(request, events)
