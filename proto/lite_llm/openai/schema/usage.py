"""What an answer cost and why it ended, on every generating endpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from lite_llm.proto.v1 import generate_pb2

FinishReason = Literal["stop", "length", "tool_calls"]


class PromptTokensDetails(Struct, frozen=True):
    cached_tokens: int


class Usage(Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails

    @classmethod
    def of(cls, usages: Iterable[generate_pb2.Usage]) -> Usage:
        """The sum of what was counted for each prompt."""
        prompt = cached = completion = 0
        for usage in usages:
            prompt += usage.prompt_tokens
            cached += usage.cached_prompt_tokens
            completion += usage.completion_tokens
        return cls(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details=PromptTokensDetails(cached),
        )
