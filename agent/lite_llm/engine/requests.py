"""A request off the wire, checked against a model; each fault names its field."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

from lite_llm.contracts.errors import InvalidRequest, Unsupported
from lite_llm.engine.defaults import Defaults
from lite_llm.engine.model import Model
from lite_llm.engine.request import Request, Resumed
from lite_llm.engine.sampling import Sampling
from lite_llm.engine.stopping import Limits, stop_tokens
from lite_llm.engine.tier_grants import TierGrants
from lite_llm.proto.v1.generate_pb2 import GenerateStart, Resume, SamplingParameters

MAX_STOPS, MAX_STOP_CHARACTERS = 16, 1024  # each is searched for after every token
MAX_LOGPROBS = 100  # a token; each is named and sent
MAX_PROMPT_LOGPROBS = 1 << 18  # of all its tokens: they are named at once, and sent as one event
MAX_BIASES = 1024  # each is looked up at every token
MAX_SEQUENCES = 128  # of one request

_Defaulted = Literal["temperature", "top_p", "min_p", "repetition_penalty"]


def request_from_proto(
    start: GenerateStart,
    model: Model,
    *,
    room: int,
    tiers: TierGrants,
    conversation: str | None = None,
) -> Request:
    """Raises :class:`InvalidRequest` for what can't be meant, :class:`Forbidden` for what may not,
    and :class:`Unsupported` for answers in a form that this engine can't hold a model to.

    ``room`` is the tokens that a sequence can hold here, prompt and answer together;
    ``conversation`` the rendered chat, if the prompt is one.
    """
    wire = start.sampling
    if wire.HasField("json_schema"):
        raise Unsupported(
            "our own engine can't hold an answer to a schema",
            where="response_format",
            remedy="leave it out, or ask a model that llama.cpp or vLLM serves",
        )
    granted = tiers.grant(start.tiers)
    prompt = _prompt_of(start, model, room, conversation)
    limits = _limits_of(wire, len(prompt), model, room)
    n = wire.n or 1
    if n > MAX_SEQUENCES:
        raise _invalid("n", f"is {n}", f"ask for at most {MAX_SEQUENCES}")
    return Request(
        prompt=prompt,
        sampling=_sampling_of(wire, model),
        limits=limits,
        n=n,
        logprobs=_count(wire, "logprobs"),
        prompt_logprobs=_prompt_logprobs(wire, len(prompt)),
        resumed=_resumed(start.resume, n, limits, model),
        tenant=start.tenant,
        priority=start.priority,
        tiers=granted,
    )


def _prompt_of(
    start: GenerateStart, model: Model, room: int, conversation: str | None
) -> tuple[int, ...]:
    text = start.text if conversation is None else conversation
    if start.WhichOneof("prompt") == "token_ids":
        prompt = tuple(start.token_ids.ids)
    else:
        # Reading megabytes that can't fit would take a minute and a gigabyte.
        if (least := model.tokenizer.at_least(text)) >= room:
            raise _too_long(f"at least {least}", room)
        # A chat template has written the token that begins a text itself.
        bare = conversation is not None
        prompt = model.tokenizer.encode(text, bare=bare) if text else ()
    if not prompt:
        raise _invalid("prompt", "is empty", "give at least one token")
    _check_tokens(prompt, "prompt", model)
    if len(prompt) >= room:
        raise _too_long(str(len(prompt)), room)
    return prompt


def _too_long(tokens: str, room: int) -> InvalidRequest:
    return _invalid(
        "prompt",
        f"has {tokens} tokens",
        f"the model holds {room}, and the answer needs room too",
    )


def _sampling_of(wire: SamplingParameters, model: Model) -> Sampling:
    neutral = Sampling()
    defaults = model.defaults

    def given(field: _Defaulted) -> float:
        """The request's, or else the checkpoint's, or else the neutral value."""
        value = getattr(wire, field) if wire.HasField(field) else getattr(defaults, field)
        return float(getattr(neutral, field) if value is None else value)

    _check_tokens(wire.logit_bias, "logit_bias", model)
    if len(wire.logit_bias) > MAX_BIASES:
        raise _invalid("logit_bias", f"has {len(wire.logit_bias)} tokens", f"at most {MAX_BIASES}")
    return Sampling(
        temperature=given("temperature"),
        top_k=_top_k(wire, defaults),
        top_p=given("top_p"),
        min_p=given("min_p"),
        repetition_penalty=given("repetition_penalty"),
        presence_penalty=wire.presence_penalty,
        frequency_penalty=wire.frequency_penalty,
        logit_bias=tuple(sorted(wire.logit_bias.items())),
        seed=wire.seed,
    )


def _top_k(wire: SamplingParameters, defaults: Defaults) -> int | None:
    return wire.top_k or None if wire.HasField("top_k") else defaults.top_k


def _limits_of(wire: SamplingParameters, num_prompt: int, model: Model, room: int) -> Limits:
    left = room - num_prompt
    if wire.max_tokens > left:
        raise _invalid(
            "max_tokens",
            f"is {wire.max_tokens}",
            f"after {num_prompt} prompt tokens the model has room for {left}",
        )
    if wire.min_tokens > (wire.max_tokens or left):
        least = wire.max_tokens and f"max_tokens is {wire.max_tokens}"
        raise _invalid(
            "min_tokens",
            f"is {wire.min_tokens}",
            least or f"after {num_prompt} prompt tokens the model has room for {left}",
        )
    _check_tokens(wire.stop_token_ids, "stop_token_ids", model)
    default = min(left, max(wire.default_max_tokens or left, wire.min_tokens))
    return Limits(
        max_tokens=wire.max_tokens or default,
        min_tokens=wire.min_tokens,
        stop=_stops_of(wire.stop),
        stop_tokens=stop_tokens(
            model.eos_token_ids, wire.stop_token_ids, ignore_eos=wire.ignore_eos
        ),
        include_stop=wire.include_stop,
    )


def _stops_of(stops: Collection[str]) -> tuple[str, ...]:
    if len(stops) > MAX_STOPS:
        raise _invalid("stop", f"has {len(stops)} strings", f"give at most {MAX_STOPS}")
    for stop in stops:
        if not 1 <= len(stop) <= MAX_STOP_CHARACTERS:
            raise _invalid(
                "stop",
                f"has a string of {len(stop)} characters",
                f"use 1 to {MAX_STOP_CHARACTERS}",
            )
    return tuple(stops)


def _resumed(resume: Resume, n: int, limits: Limits, model: Model) -> tuple[Resumed, ...]:
    if not resume.next_sequence:
        if resume.token_ids.ids or resume.sequences:
            raise _invalid("resume", "has tokens but no sequence number", "give next_sequence")
        return ()
    if resume.next_sequence == 1 and not resume.token_ids.ids and not resume.sequences:
        return ()  # only the start was told: all that follows it is still to come
    known = [Resumed(tuple(each.token_ids.ids), each.finished) for each in resume.sequences]
    if not known and n == 1:
        known = [Resumed(tuple(resume.token_ids.ids))]
    if len(known) != n or (resume.sequences and resume.token_ids.ids):
        raise _invalid(
            "resume", f"tells of {len(known)} sequences, and n is {n}", "give one entry for each"
        )
    if all(each.finished for each in known):
        raise _invalid("resume", "tells that all sequences are over", "ask for what is missing")
    for each in known:
        _check_tokens(each.tokens, "resume", model)
        if len(each.tokens) > limits.max_tokens:
            raise _invalid(
                "resume", f"has {len(each.tokens)} tokens", f"max_tokens is {limits.max_tokens}"
            )
    return tuple(known)


def _count(wire: SamplingParameters, field: Literal["logprobs", "prompt_logprobs"]) -> int | None:
    if not wire.HasField(field):
        return None
    count = int(getattr(wire, field))
    if count > MAX_LOGPROBS:
        raise _invalid(field, f"is {count}", f"ask for at most {MAX_LOGPROBS}")
    return count


def _prompt_logprobs(wire: SamplingParameters, num_prompt: int) -> int | None:
    count = _count(wire, "prompt_logprobs")
    if count is not None and num_prompt * (count + 1) > MAX_PROMPT_LOGPROBS:
        raise _invalid(
            "prompt_logprobs",
            f"is {count} for each of {num_prompt} tokens",
            "ask for fewer, or of a shorter prompt",
        )
    return count


def _check_tokens(tokens: Iterable[int], field: str, model: Model) -> None:
    if (largest := max(tokens, default=0)) >= model.vocab_size:
        raise _invalid(field, f"has the token {largest}", f"ids end at {model.vocab_size - 1}")


def _invalid(field: str, what: str, remedy: str) -> InvalidRequest:
    return InvalidRequest(f"{field} {what}", where=field, remedy=remedy)
