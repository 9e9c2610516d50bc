"""``/v1/embeddings``, of models whose backend makes them."""

from __future__ import annotations

import base64
import sys
import uuid
from array import array

import msgspec
from aiohttp import web

from lite_llm.contracts.errors import AgentLost, Unsupported
from lite_llm.dispatch import Dispatcher
from lite_llm.gateway.authentication import tenant_of
from lite_llm.gateway.model_list import Models
from lite_llm.openai.bodies import read_body
from lite_llm.openai.schema import EmbeddingRequest, Embeddings
from lite_llm.openai.schema.completions import Prompt
from lite_llm.openai.schema.embeddings import Embedding, EmbeddingUsage
from lite_llm.proto.v1.generate_pb2 import EmbedInput, EmbedRequest, EmbedResponse, TokenIds
from lite_llm.tenants import Admission
from lite_llm.wire import ref_to_proto


class EmbeddingsHandler:
    """The handler."""

    def __init__(self, models: Models, dispatcher: Dispatcher, admission: Admission) -> None:
        self._models = models
        self._dispatcher = dispatcher
        self._admission = admission

    async def create(self, request: web.Request) -> web.Response:
        """``POST /v1/embeddings``."""
        wanted, tenant = await read_body(request, EmbeddingRequest), tenant_of(request)
        model = self._models.find(wanted.model, tenant)
        if self._models.is_native(model):
            raise Unsupported(
                f"{model} generates text and makes no embeddings",
                where="model",
                remedy="ask /v1/completions or /v1/chat/completions, or a model of llama.cpp's",
            )
        inputs = [_input(each) for each in wanted.inputs()]
        asked = EmbedRequest(
            model=ref_to_proto(model),
            inputs=inputs,
            dimensions=wanted.dimensions or 0,
            tenant=tenant.name,
        )
        async with self._admission.admitted(tenant, len(inputs)):
            told = await self._dispatcher.embed(asked, f"embd-{uuid.uuid4().hex}")
        if len(told.embeddings) != len(inputs):
            raise AgentLost("the agent left inputs out", where=str(model), remedy="try again")
        body = msgspec.json.encode(_answer(wanted, told))
        return web.Response(body=body, content_type="application/json")


def _input(each: Prompt) -> EmbedInput:
    if isinstance(each, str):
        return EmbedInput(text=each)
    return EmbedInput(token_ids=TokenIds(ids=each))


def _answer(wanted: EmbeddingRequest, told: EmbedResponse) -> Embeddings:
    is_packed = wanted.encoding_format == "base64"
    return Embeddings(
        data=[
            Embedding(
                index=index,
                embedding=_packed(array("f", each.values)) if is_packed else list(each.values),
            )
            for index, each in enumerate(told.embeddings)
        ],
        model=wanted.model,
        usage=EmbeddingUsage(prompt_tokens=told.prompt_tokens, total_tokens=told.prompt_tokens),
    )


def _packed(values: array[float]) -> str:
    if sys.byteorder == "big":
        values.byteswap()
    return base64.b64encode(values.tobytes()).decode()
