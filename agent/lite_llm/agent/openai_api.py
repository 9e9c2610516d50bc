"""OpenAI's endpoints on the agent itself, for whoever is on its machine: no keys, no other agents.

The schema, the streams and the errors are those of the orchestrator, and so is their code.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import msgspec
from aiohttp import web

from lite_llm.agent.generating import generated
from lite_llm.agent.models import Models
from lite_llm.openai import (
    Asked,
    asked_chat,
    asked_completion,
    merged,
    model_named,
    name_of,
    not_found,
)
from lite_llm.openai.schema import Model, ModelList
from lite_llm.proto.v1.generate_pb2 import GenerateEvent, GenerateRequest, GenerateStart


class OpenAiApi:
    """The handlers. A client that goes away takes its request along."""

    def __init__(self, models: Models, node: str) -> None:
        self._models = models
        self._node = node

    def routes(self) -> list[web.RouteDef]:
        """All of them."""
        return [
            web.post("/v1/chat/completions", self.chat),
            web.post("/v1/completions", self.completions),
            web.get("/v1/models", self.models),
            web.get("/v1/models/{name:.+}", self.model),
        ]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/chat/completions``."""
        return await self._respond(request, await asked_chat(request))

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/completions``."""
        return await self._respond(request, await asked_completion(request))

    async def models(self, request: web.Request) -> web.Response:
        """``GET /v1/models``: those that this agent holds, asleep or not."""
        held = tuple(Model(id=name_of(model.ref)) for model in self._models.hosted)
        return _json(ModelList(data=held))

    async def model(self, request: web.Request) -> web.Response:
        """``GET /v1/models/{name}``."""
        name = request.match_info["name"]
        ref = model_named(name)
        if all(model.ref != ref for model in self._models.hosted):
            raise not_found(name)
        return _json(Model(id=name_of(ref)))

    async def _respond(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        streams = [self._events(start) for start in asked.starts]
        async with merged(streams) as events:
            return await asked.respond(request, events)

    def _events(self, start: GenerateStart) -> AsyncGenerator[list[GenerateEvent]]:
        return generated(self._models, self._node, GenerateRequest(start=start), _nothing())


async def _nothing() -> AsyncIterator[GenerateRequest]:
    return
    yield


def _json(value: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
