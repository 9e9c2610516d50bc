"""``/v1/embeddings``: the models served here generate, and say so."""

from __future__ import annotations

from typing import NoReturn

from aiohttp import web

from lite_llm.contracts.errors import Unsupported
from lite_llm.gateway.authentication import tenant_of
from lite_llm.gateway.model_list import Models
from lite_llm.openai.bodies import read_body
from lite_llm.openai.schema import EmbeddingRequest


class Embeddings:
    """The handler."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def create(self, request: web.Request) -> NoReturn:
        """``POST /v1/embeddings``."""
        wanted = await read_body(request, EmbeddingRequest)
        model = self._models.find(wanted.model, tenant_of(request))
        raise Unsupported(
            f"{model} generates text and makes no embeddings",
            where="model",
            remedy="ask /v1/completions or /v1/chat/completions",
        )
