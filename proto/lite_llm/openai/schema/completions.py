"""``/v1/completions``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from msgspec import UNSET, Struct, UnsetType

from lite_llm.contracts.errors import InvalidRequest, Unsupported
from lite_llm.openai.schema.extension import Explanation
from lite_llm.openai.schema.logprobs import CompletionLogprobs, PromptLogprobs
from lite_llm.openai.schema.sampling import CountOrNone, SampledRequest, TokenId, Top
from lite_llm.openai.schema.usage import FinishReason, Usage
from lite_llm.proto.v1.generate_pb2 import SamplingParameters

DEFAULT_MAX_TOKENS = 16  # what OpenAI's completions endpoint takes when the client says nothing
MAX_CHOICES = 1024  # prompts times n; each is a sequence in an agent's batch

Prompt = str | list[int]


class CompletionRequest(SampledRequest, frozen=True, kw_only=True):
    """The body of ``POST /v1/completions``."""

    refused: ClassVar[dict[str, tuple[object, ...]]] = {
        "best_of": (1,),
        "suffix": (),
        "prompt_embeds": (),
    }

    prompt: str | list[str | TokenId | list[TokenId]]
    max_tokens: CountOrNone | None = None
    """0 only together with ``echo``."""
    echo: bool | None = None
    logprobs: Top | None = None

    best_of: Any = None
    suffix: Any = None
    prompt_embeds: Any = None

    @property
    def is_echo_only(self) -> bool:
        """Nothing but the prompt is wanted back, as by those who score texts."""
        return self.max_tokens == 0

    @property
    def needs_prompt_logprobs(self) -> bool:
        """Whether the prompt's tokens are to be rated."""
        return self.prompt_logprobs is not None or (bool(self.echo) and self.logprobs is not None)

    def check(self) -> None:
        super().check()
        if self.max_tokens == 0 and not self.echo:
            raise InvalidRequest(
                "max_tokens is 0 without echo", where="max_tokens", remedy="ask for 1 or more"
            )
        for prompt in self.prompts():
            if self.echo and self.logprobs is None and not isinstance(prompt, str):
                raise Unsupported(
                    "echo of a prompt of token ids is not supported",
                    where="echo",
                    remedy="send the prompt as text, or ask for logprobs",
                )

    def prompts(self) -> list[Prompt]:
        """In order; never empty, and neither is any of them."""
        prompts = listed(self.prompt, "prompt")
        if not prompts or not all(prompts):
            raise InvalidRequest(
                "the prompt is empty", where="prompt", remedy="send one token or more"
            )
        if len(prompts) * self.choices > MAX_CHOICES:
            raise InvalidRequest(
                f"{len(prompts)} prompts times n = {self.choices}",
                where="prompt",
                remedy=f"ask for {MAX_CHOICES} answers at most in one request",
            )
        return prompts

    def to_sampling(self) -> SamplingParameters:
        """How to continue each prompt, on the wire."""
        rated = [top for top in (self.prompt_logprobs, self.logprobs) if top is not None]
        wire = self.sampling(
            # 0 means otherwise on the wire: one is made and left out.
            max_tokens=0 if self.max_tokens is None else max(self.max_tokens, 1),
            logprobs=self.logprobs,
            prompt_logprobs=max(rated) if self.needs_prompt_logprobs else None,
        )
        if self.max_tokens is None:
            wire.default_max_tokens = DEFAULT_MAX_TOKENS
        return wire


class Choice(Struct, frozen=True, kw_only=True):
    text: str
    index: int
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType | None = UNSET
    """Null where the agent did not tell them."""


class Completion(Struct, frozen=True, kw_only=True):
    """A whole answer, or one event of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    """Seconds since the epoch."""
    model: str
    choices: Sequence[Choice]
    usage: Usage | UnsetType | None = UNSET
    lite_llm: Explanation | UnsetType = UNSET


def listed(prompt: str | list[str | int | list[int]], where: str) -> list[Prompt]:
    """What a field of this name holds: one text or its token ids, or many of either."""
    if isinstance(prompt, str):
        return [prompt]
    tokens = [item for item in prompt if isinstance(item, int)]
    if not tokens:
        return [item for item in prompt if not isinstance(item, int)]
    if len(tokens) < len(prompt):
        raise InvalidRequest(
            f"the {where} mixes token ids with {where}s", where=where, remedy="send one kind"
        )
    return [tokens]
