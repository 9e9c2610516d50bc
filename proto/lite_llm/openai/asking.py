"""What a client asks of the endpoints that generate, and the answer as it wants it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from lite_llm.contracts import ModelRef
from lite_llm.openai.answers import Answer
from lite_llm.openai.bodies import read_body
from lite_llm.openai.chat import ChatForm
from lite_llm.openai.completions import CompletionForm
from lite_llm.openai.naming import model_named
from lite_llm.openai.responses import Events, streamed, whole
from lite_llm.openai.schema import ChatRequest, CompletionRequest, SampledRequest
from lite_llm.openai.starts import chat_starts, completion_starts
from lite_llm.proto.v1.generate_pb2 import GenerateStart


@dataclass(frozen=True)
class Asked:
    """One request of a client."""

    request_id: str
    model: ModelRef
    wanted: SampledRequest
    starts: Sequence[GenerateStart]
    """One for each prompt."""
    answer: Answer

    @property
    def num_choices(self) -> int:
        """Of all prompts together."""
        return len(self.starts) * self.wanted.choices

    async def respond(self, request: web.Request, events: Events) -> web.StreamResponse:
        """The answer made of ``events``: whole or streamed."""
        explains = self.wanted.explains
        if not self.wanted.stream:
            return await whole(events, self.answer, request_id=self.request_id, explains=explains)
        return await streamed(
            request,
            events,
            self.answer,
            request_id=self.request_id,
            with_usage=self.wanted.include_usage,
            explains=explains,
        )


async def asked_chat(request: web.Request) -> Asked:
    """``POST /v1/chat/completions``."""
    wanted = await read_body(request, ChatRequest)
    request_id, created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
    model = model_named(wanted.model)
    answer = Answer(
        ChatForm(wanted, request_id, created),
        prompts=1,
        n=wanted.choices,
        rates_prompt=wanted.prompt_logprobs is not None,
        tools=wanted.callable_tools(),
    )
    starts = chat_starts(wanted, request_id, created, model)
    return Asked(request_id, model, wanted, starts, answer)


async def asked_completion(request: web.Request) -> Asked:
    """``POST /v1/completions``."""
    wanted = await read_body(request, CompletionRequest)
    request_id, created = f"cmpl-{uuid.uuid4().hex}", int(time.time())
    model = model_named(wanted.model)
    starts = completion_starts(wanted, request_id, model)
    answer = Answer(
        CompletionForm(wanted, request_id, created),
        prompts=len(starts),
        n=wanted.choices,
        rates_prompt=wanted.needs_prompt_logprobs,
        is_echo_only=wanted.is_echo_only,
    )
    return Asked(request_id, model, wanted, starts, answer)
