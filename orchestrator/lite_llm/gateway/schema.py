"""OpenAI's completions as structs: what clients send, what they get, and what is refused by name.

Fields that OpenAI's API doesn't know are ignored, as it does itself; fields of a wrong type or
range are refused with the field's name.
"""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import InvalidRequest, Unsupported
from lite_llm.proto.v1 import generate_pb2
from lite_llm.proto.v1.generate_pb2 import GenerateStart, SamplingParameters
from lite_llm.wire import ref_to_proto

DEFAULT_MAX_TOKENS = 16  # what OpenAI's completions endpoint takes when the client says nothing
MAX_STOPS = 16  # OpenAI allows 4, other servers any number; each costs a search per token

Count = Annotated[int, Meta(ge=1, le=2**32 - 1)]
TokenId = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(gt=0, le=1)]
Stop = Annotated[str, Meta(min_length=1)]
FinishReason = Literal["stop", "length"]

S = TypeVar("S", bound=Struct)

_LATER: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("n", (1,)),
    ("best_of", (1,)),
    ("echo", (False,)),
    ("logprobs", ()),
    ("suffix", ("",)),
    ("presence_penalty", (0,)),
    ("frequency_penalty", (0,)),
    ("logit_bias", ({},)),
)
"""Fields that OpenAI's API has and this version does not, with the values that ask for nothing."""


class StreamOptions(Struct, frozen=True, kw_only=True):
    include_usage: bool | None = None


class CompletionRequest(Struct, frozen=True, kw_only=True):
    """The body of ``POST /v1/completions``."""

    model: Annotated[str, Meta(min_length=1)]
    prompt: str | list[str | TokenId | list[TokenId]]
    max_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that carries the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def to_start(self, request_id: str, model: ModelRef) -> GenerateStart:
        """The request on the wire; :class:`InvalidRequest` or ``Unsupported`` name a field."""
        for name, neutral in _LATER:
            value = getattr(self, name)
            if value is not None and value not in neutral:
                raise Unsupported(
                    f"{name} is not supported", where=name, remedy=f"leave {name} out"
                )
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "stream_options without a stream",
                where="stream_options",
                remedy="set stream to true, or leave stream_options out",
            )
        start = GenerateStart(
            request_id=request_id, model=ref_to_proto(model), sampling=self._sampling()
        )
        match _single_prompt(self.prompt):
            case str(text):
                start.text = text
            case token_ids:
                start.token_ids.ids.extend(token_ids)
        return start

    def _sampling(self) -> SamplingParameters:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        # Chosen here and not by the agent: a replay elsewhere must draw the same numbers.
        seed = secrets.randbits(64) if self.seed is None else self.seed % 2**64
        return SamplingParameters(
            max_tokens=self.max_tokens or DEFAULT_MAX_TOKENS,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            seed=seed,
            stop=stops or (),
        )


class Choice(Struct, frozen=True, kw_only=True):
    text: str
    index: int = 0
    logprobs: None = None
    finish_reason: FinishReason | None = None


class PromptTokensDetails(Struct, frozen=True):
    cached_tokens: int


class Usage(Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails

    @classmethod
    def of(cls, usage: generate_pb2.Usage) -> Usage:
        """From what the agent counted."""
        return cls(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.prompt_tokens + usage.completion_tokens,
            prompt_tokens_details=PromptTokensDetails(usage.cached_prompt_tokens),
        )


class Completion(Struct, frozen=True, kw_only=True):
    """A whole answer, or one chunk of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    """Seconds since the epoch."""
    model: str
    choices: tuple[Choice, ...]
    usage: Usage | None = None


class Model(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int = 0  # the metadata store does not say, and OpenAI's clients want a number
    owned_by: str = "lite-llm"


class ModelList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[Model, ...]


def decode(body: bytes, kind: type[S]) -> S:
    """The struct in a JSON body; :class:`InvalidRequest` names the field that is wrong."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        problem, field = _located(str(error))
        raise InvalidRequest(problem, where=field) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"the body is not JSON: {error}", remedy="send one JSON object, encoded as UTF-8"
        ) from error


def _located(text: str) -> tuple[str, str]:
    """What is wrong and the field's path, out of msgspec's message, which ends in the path."""
    problem, _, path = text.partition(" - at `$")
    field = path.strip("`").lstrip(".")
    if missing := re.search(r"missing required field `(\w+)`", problem):
        field = f"{field}.{missing[1]}" if field else missing[1]
    return (f"{field}: {problem}" if field else f"the body: {problem}"), field


def _single_prompt(prompt: str | list[str | int | list[int]]) -> str | list[int]:
    """One prompt; a list of one prompt is one too."""
    one = prompt
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        one = [*prompt[0]] if isinstance(prompt[0], list) else prompt[0]
    if not one:
        raise InvalidRequest("the prompt is empty", where="prompt", remedy="send one token or more")
    if isinstance(one, str):
        return one
    token_ids = [item for item in one if isinstance(item, int)]
    if len(token_ids) < len(one):
        raise Unsupported(
            "several prompts in one request are not supported",
            where="prompt",
            remedy="send one request per prompt",
        )
    return token_ids
