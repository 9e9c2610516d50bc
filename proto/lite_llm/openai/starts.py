"""From a request's body to the generations that it asks for."""

from __future__ import annotations

from typing import TypedDict

from lite_llm.contracts import ModelRef
from lite_llm.openai.schema import ChatRequest, CompletionRequest, SampledRequest
from lite_llm.openai.schema.completions import Prompt
from lite_llm.proto.v1.generate_pb2 import GenerateStart, TokenIds
from lite_llm.wire import ref_to_proto


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
