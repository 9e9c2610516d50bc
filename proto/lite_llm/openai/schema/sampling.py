"""What the bodies of all generating endpoints share: how tokens are drawn, and when it ends."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from msgspec import Meta, Struct

from lite_llm.contracts.errors import InvalidRequest, Unsupported
from lite_llm.openai.schema.extension import Extension
from lite_llm.openai.schema.response_format import ResponseFormat
from lite_llm.proto.v1.generate_pb2 import SamplingParameters

MAX_STOPS = 16  # OpenAI allows 4, other servers any number; each costs a search per token
MAX_STOP_CHARACTERS = 1024
MAX_LISTED = 1024  # tokens that stop or are biased; each is looked at for every token
MAX_N = 128  # OpenAI's limit
MAX_TOP = 20  # OpenAI's limit for chat; each costs bytes in every chunk

Count = Annotated[int, Meta(ge=1, le=2**32 - 1)]
CountOrNone = Annotated[int, Meta(ge=0, le=2**32 - 1)]
TokenId = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(gt=0, le=1)]
ShareBelowOne = Annotated[float, Meta(ge=0, lt=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
LogitBias = Annotated[
    dict[TokenId, Bias],
    Meta(
        max_length=MAX_LISTED,
        extra_json_schema={"propertyNames": {"pattern": "^(0|[1-9][0-9]{0,8})$"}},
    ),
]
Stop = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Top = Annotated[int, Meta(ge=0, le=MAX_TOP)]

NEUTRAL: tuple[object, ...] = (None, {}, [], "")
"""Values by which a client asks for nothing, whatever the field."""


class StreamOptions(Struct, frozen=True, kw_only=True):
    include_usage: bool | None = None


class SampledRequest(Struct, frozen=True, kw_only=True):
    """OpenAI's fields first, then what other servers have added and clients have come to use."""

    refused: ClassVar[dict[str, tuple[object, ...]]] = {
        "chat_template_kwargs": (),
        "structured_outputs": (),
        "guided_json": (),
        "guided_regex": (),
        "guided_choice": (),
        "guided_grammar": (),
        "allowed_token_ids": (),
        "bad_words": (),
        "use_beam_search": (False,),
        "truncate_prompt_tokens": (),
        "skip_special_tokens": (True,),
    }
    """Fields that would change the answer and are not obeyed, with the values that would not."""

    model: Annotated[str, Meta(min_length=1)]
    temperature: Temperature | None = None
    top_p: Share | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_N)] | None = None
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    response_format: ResponseFormat | None = None
    """JSON is refused by models whose engine can't be held to it."""

    top_k: Annotated[int, Meta(ge=-1, le=2**32 - 1)] | None = None
    """-1 and 0: all."""
    min_p: ShareBelowOne | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=1000)] | None = None
    min_tokens: CountOrNone | None = None
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=MAX_LISTED)] | None = None
    include_stop_str_in_output: bool | None = None
    prompt_logprobs: Top | None = None
    return_token_ids: bool | None = None

    chat_template_kwargs: Any = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    allowed_token_ids: Any = None
    bad_words: Any = None
    use_beam_search: Any = None
    truncate_prompt_tokens: Any = None
    skip_special_tokens: Any = None
    lite_llm: Extension | None = None

    @property
    def choices(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def explains(self) -> bool:
        """Whether the answer tells how it came about."""
        return bool(self.lite_llm and self.lite_llm.explain)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that carries the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def check(self) -> None:
        """Raises :class:`InvalidRequest` or :class:`Unsupported`, either with a field's name."""
        for name, neutral in self.refusals():
            value = getattr(self, name)
            if value not in NEUTRAL and value not in neutral:
                raise Unsupported(
                    f"{name} is not supported", where=name, remedy=f"leave {name} out"
                )
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "stream_options without a stream",
                where="stream_options",
                remedy="set stream to true, or leave stream_options out",
            )
        if self.prompt_logprobs is not None and self.stream:
            raise InvalidRequest(
                "prompt_logprobs in a stream", where="prompt_logprobs", remedy="do not stream"
            )

    def sampling(
        self, *, max_tokens: int, logprobs: int | None, prompt_logprobs: int | None = None
    ) -> SamplingParameters:
        """On the wire. What the client left out is left out there: the checkpoint has defaults."""
        if max_tokens and (self.min_tokens or 0) > max_tokens:
            raise InvalidRequest(
                f"min_tokens is {self.min_tokens} and max_tokens {max_tokens}", where="min_tokens"
            )
        # Chosen here and not by the agent: a replay elsewhere must draw the same numbers.
        seed = secrets.randbits(64) if self.seed is None else self.seed % 2**64
        return SamplingParameters(
            max_tokens=max_tokens,
            min_tokens=self.min_tokens or 0,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=None if self.top_k is None else max(self.top_k, 0),
            min_p=self.min_p,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=self.repetition_penalty,
            seed=seed,
            stop=[self.stop] if isinstance(self.stop, str) else self.stop or (),
            stop_token_ids=self.stop_token_ids or (),
            ignore_eos=bool(self.ignore_eos),
            logprobs=logprobs,
            n=self.n or 0,
            logit_bias=self.logit_bias or {},
            prompt_logprobs=prompt_logprobs,
            include_stop=bool(self.include_stop_str_in_output),
            json_schema=self.response_format.to_schema() if self.response_format else None,
        )

    @classmethod
    def refusals(cls) -> Iterator[tuple[str, tuple[object, ...]]]:
        """Everything in ``refused``, of this body and of all."""
        for kind in cls.__mro__:
            yield from vars(kind).get("refused", {}).items()
