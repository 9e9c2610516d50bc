"""The endpoints that generate: from a request's body to agents, and back as its form words it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import TypedDict

from aiohttp import web

from lite_llm.contracts import ModelRef
from lite_llm.dispatch import Dispatcher
from lite_llm.gateway.answers import Answer
from lite_llm.gateway.authentication import tenant_of
from lite_llm.gateway.bodies import read_body
from lite_llm.gateway.chat import ChatForm
from lite_llm.gateway.completions import CompletionForm
from lite_llm.gateway.measures import measured
from lite_llm.gateway.merging import merged
from lite_llm.gateway.model_list import model_named, not_found
from lite_llm.gateway.responses import streamed, whole
from lite_llm.gateway.schema import ChatRequest, CompletionRequest, SampledRequest
from lite_llm.gateway.schema.completions import Prompt
from lite_llm.proto.v1.generate_pb2 import GenerateStart, TokenIds
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
        wanted = await read_body(request, ChatRequest)
        request_id, created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        starts = chat_starts(wanted, request_id, created, model_named(wanted.model))
        answer = Answer(
            ChatForm(wanted, request_id, created),
            prompts=1,
            n=wanted.choices,
            rates_prompt=wanted.prompt_logprobs is not None,
            tools=wanted.callable_tools(),
        )
        return await self._respond(request, wanted, starts, answer, request_id)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/completions``."""
        wanted = await read_body(request, CompletionRequest)
        request_id, created = f"cmpl-{uuid.uuid4().hex}", int(time.time())
        starts = completion_starts(wanted, request_id, model_named(wanted.model))
        answer = Answer(
            CompletionForm(wanted, request_id, created),
            prompts=len(starts),
            n=wanted.choices,
            rates_prompt=wanted.needs_prompt_logprobs,
            is_echo_only=wanted.is_echo_only,
        )
        return await self._respond(request, wanted, starts, answer, request_id)

    async def _respond(
        self,
        request: web.Request,
        wanted: SampledRequest,
        starts: Sequence[GenerateStart],
        answer: Answer,
        request_id: str,
    ) -> web.StreamResponse:
        model, tenant = model_named(wanted.model), tenant_of(request)
        if not tenant.sees(model):
            raise not_found(wanted.model)
        request[MODEL] = model
        for start in starts:
            tenant.stamp(start)
        explains = wanted.explains
        streams = [
            measured(self._dispatcher, start, self._metrics, explains=explains) for start in starts
        ]
        cost = len(starts) * wanted.choices
        async with self._admission.admitted(tenant, cost), merged(streams) as events:
            if not wanted.stream:
                return await whole(events, answer, request_id=request_id, explains=explains)
            return await streamed(
                request,
                events,
                answer,
                request_id=request_id,
                with_usage=wanted.include_usage,
                explains=explains,
            )


class _Given(TypedDict, total=False):
    text: str
    token_ids: TokenIds


def chat_starts(
    wanted: ChatRequest, request_id: str, created: int, model: ModelRef
) -> tuple[GenerateStart, ...]:
    """One generation; refuses, by the name of a field, what can't be done.

    ``created``, in seconds since the epoch, is what the chat template takes for now.
    """
    wanted.check()
    start = GenerateStart(
        request_id=request_id,
        model=ref_to_proto(model),
        chat=wanted.to_chat(),
        created_at=created,
        return_prompt_ids=bool(wanted.return_token_ids),
        sampling=wanted.to_sampling(),
    )
    return _extended(wanted, start)


def completion_starts(
    wanted: CompletionRequest, request_id: str, model: ModelRef
) -> tuple[GenerateStart, ...]:
    """One generation a prompt, each as if it had been asked alone; refuses what can't be done."""
    wanted.check()
    prompts = wanted.prompts()
    starts = (
        GenerateStart(
            request_id=request_id if len(prompts) == 1 else f"{request_id}-{number}",
            model=ref_to_proto(model),
            sampling=wanted.to_sampling(),
            return_prompt_ids=bool(wanted.return_token_ids),
            **_given(prompt),
        )
        for number, prompt in enumerate(prompts)
    )
    return _extended(wanted, *starts)


def _extended(wanted: SampledRequest, *starts: GenerateStart) -> tuple[GenerateStart, ...]:
    for start in starts:
        if wanted.lite_llm is not None:
            wanted.lite_llm.apply(start)
    return starts


def _given(prompt: Prompt) -> _Given:
    return {"text": prompt} if isinstance(prompt, str) else {"token_ids": TokenIds(ids=prompt)}
