"""``/openapi.json``: the REST API for machines, made from the structs that decode its requests."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import msgspec
from aiohttp import web

from lite_llm.openai import schema
from lite_llm.openai.schema.sampling import NEUTRAL

_COMPONENTS = "#/components/schemas/{name}"
_STRUCTS: tuple[type[msgspec.Struct], ...] = (
    schema.ChatRequest,
    schema.ChatCompletion,
    schema.ChatChunk,
    schema.CompletionRequest,
    schema.Completion,
    schema.EmbeddingRequest,
    schema.Embeddings,
    schema.Model,
    schema.ModelList,
    schema.Failure,
)


def document() -> dict[str, Any]:
    """In OpenAPI 3.1."""
    _, components = msgspec.json.schema_components(_STRUCTS, ref_template=_COMPONENTS)
    for request in (schema.ChatRequest, schema.CompletionRequest):
        properties = components[request.__name__]["properties"]
        for name, neutral in request.refusals():
            properties[name] = {
                "enum": [*NEUTRAL, *neutral],
                "description": "Not supported; these values ask for nothing.",
            }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Lite LLM", "version": metadata.version("lite-llm")},
        "paths": {
            "/v1/chat/completions": {
                "post": _generation(
                    "Answer a conversation",
                    schema.ChatRequest,
                    schema.ChatCompletion,
                    schema.ChatChunk,
                )
            },
            "/v1/completions": {
                "post": _generation(
                    "Continue texts",
                    schema.CompletionRequest,
                    schema.Completion,
                    schema.Completion,
                )
            },
            "/v1/embeddings": {
                "post": {
                    "summary": "Turn texts into vectors, by models whose backend makes them",
                    "requestBody": _body(schema.EmbeddingRequest),
                    "responses": {"200": _answer(schema.Embeddings), **_FAILURES},
                }
            },
            "/v1/models": {
                "get": {
                    "summary": "List the models that can be asked for",
                    "responses": {"200": _answer(schema.ModelList), **_FAILURES},
                }
            },
            "/v1/models/{name}": {
                "get": {
                    "summary": "Find a model",
                    "parameters": [
                        {
                            "name": "name",
                            "in": "path",
                            "required": True,
                            "schema": {"type": "string", "minLength": 1},
                        }
                    ],
                    "responses": {"200": _answer(schema.Model), **_FAILURES},
                }
            },
        },
        "components": {"schemas": components},
    }


class OpenApi:
    """The handler."""

    def __init__(self) -> None:
        self._body = msgspec.json.encode(document())

    async def get(self, request: web.Request) -> web.Response:
        """``GET /openapi.json``."""
        return web.Response(body=self._body, content_type="application/json")


def _generation(
    summary: str,
    request: type[msgspec.Struct],
    whole: type[msgspec.Struct],
    chunk: type[msgspec.Struct],
) -> dict[str, Any]:
    answer = _answer(whole)
    answer["content"]["text/event-stream"] = {"schema": _event(chunk)}
    return {
        "summary": summary,
        "requestBody": _body(request),
        "responses": {"200": answer, **_FAILURES},
    }


def _body(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": _reference(kind)}}}


def _answer(kind: type[msgspec.Struct], words: str = "The answer") -> dict[str, Any]:
    return {"description": words, "content": {"application/json": {"schema": _reference(kind)}}}


def _event(kind: type[msgspec.Struct]) -> dict[str, Any]:
    part = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": [_reference(kind), _reference(schema.Failure)]},
    }
    return {
        "type": "object",
        "properties": {"data": {"anyOf": [{"const": "[DONE]"}, part]}},
        "required": ["data"],
    }


def _reference(kind: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": _COMPONENTS.format(name=kind.__name__)}


_FAILURES = {
    "4XX": _answer(schema.Failure, "What is wrong with the request"),
    "5XX": _answer(schema.Failure, "What went wrong here"),
}
