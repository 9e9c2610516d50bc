"""Log probabilities in the three forms that clients know.

Chat's and completions' are OpenAI's, that of prompts is vLLM's. Natural logarithms.
"""

from __future__ import annotations

from msgspec import Struct


class TopLogprob(Struct, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int]
    """The token's text in UTF-8."""


class ChatTokenLogprob(Struct, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct, frozen=True, kw_only=True):
    content: list[ChatTokenLogprob]
    refusal: None = None


class CompletionLogprobs(Struct, frozen=True, kw_only=True):
    """Four columns, a row a token. The first token of a prompt has no probability."""

    text_offset: list[int]
    """Characters of the choice's tokens before this one."""
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class PromptLogprob(Struct, frozen=True, kw_only=True):
    logprob: float
    rank: int | None
    """From 1, as far as the likeliest were asked for."""
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""Of each token of the prompt: by token id, the likeliest and itself; the first has none."""
