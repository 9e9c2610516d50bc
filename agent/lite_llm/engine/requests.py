"""A request off the wire, checked against a model; each fault names its field."""

from __future__ import annotations

from collections.abc import Collection

from lite_llm.contracts.errors import InvalidRequest, Unsupported
from lite_llm.engine.generation import Request
from lite_llm.engine.model import Model
from lite_llm.engine.sampling import Sampling
from lite_llm.engine.stopping import Limits, stop_tokens
from lite_llm.proto.v1.generate_pb2 import GenerateStart, SamplingParameters

MAX_STOPS, MAX_STOP_CHARACTERS = 16, 1024  # each is searched for after every token

# Value on the wire that means "not asked for", of what this engine can't do yet.
_NOT_YET = {
    "min_tokens": (0,),
    "min_p": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (0, 1),
    "n": (0, 1),
}


def request_from_proto(start: GenerateStart, model: Model) -> Request:
    """Raises ``InvalidRequest`` for what can't be meant, ``Unsupported`` for what can't be done."""
    wire = start.sampling
    _refuse_what_is_not_implemented(start)
    prompt = _prompt_of(start, model)
    resume = tuple(start.resume.token_ids.ids)
    _check_tokens(resume, "resume", model)
    if resume and not start.resume.next_sequence:
        raise _invalid("resume", "has tokens but no sequence number", "give next_sequence")
    return Request(
        prompt=prompt,
        sampling=Sampling(
            temperature=wire.temperature,
            top_k=wire.top_k or None,
            top_p=wire.top_p or 1.0,
            seed=wire.seed,
        ),
        limits=Limits(
            max_tokens=_max_tokens(wire, len(prompt), model.context_tokens),
            stop=_stops_of(wire),
            stop_tokens=stop_tokens(
                model.eos_token_ids, wire.stop_token_ids, ignore_eos=wire.ignore_eos
            ),
        ),
        resume=resume,
    )


def _refuse_what_is_not_implemented(start: GenerateStart) -> None:
    for field, neutral in _NOT_YET.items():
        if getattr(start.sampling, field) not in neutral:
            raise _unsupported(field)
    if start.sampling.HasField("logprobs"):
        raise _unsupported("logprobs")
    if start.WhichOneof("prompt") == "chat":
        raise _unsupported("chat")
    if start.tiers.tiers:
        raise _invalid("tiers", "are asked for, but the model is dense", "leave them out")


def _prompt_of(start: GenerateStart, model: Model) -> tuple[int, ...]:
    if start.WhichOneof("prompt") == "text":
        # Reading megabytes that can't fit would take a minute and a gigabyte.
        if (least := model.tokenizer.at_least(start.text)) >= model.context_tokens:
            raise _too_long(f"at least {least}", model)
        prompt = model.tokenizer.encode(start.text) if start.text else ()
    else:
        prompt = tuple(start.token_ids.ids)
    if not prompt:
        raise _invalid("prompt", "is empty", "give at least one token")
    _check_tokens(prompt, "prompt", model)
    if len(prompt) >= model.context_tokens:
        raise _too_long(str(len(prompt)), model)
    return prompt


def _too_long(tokens: str, model: Model) -> InvalidRequest:
    return _invalid(
        "prompt",
        f"has {tokens} tokens",
        f"the model holds {model.context_tokens}, and the answer needs room too",
    )


def _check_tokens(tokens: Collection[int], field: str, model: Model) -> None:
    if tokens and max(tokens) >= model.vocab_size:
        raise _invalid(
            field, f"has the token {max(tokens)}", f"token ids end at {model.vocab_size - 1}"
        )


def _max_tokens(wire: SamplingParameters, num_prompt: int, context: int) -> int:
    room = context - num_prompt
    if wire.max_tokens > room:
        raise _invalid(
            "max_tokens",
            f"is {wire.max_tokens}",
            f"after {num_prompt} prompt tokens the model has room for {room}",
        )
    return wire.max_tokens or room


def _stops_of(wire: SamplingParameters) -> tuple[str, ...]:
    if len(wire.stop) > MAX_STOPS:
        raise _invalid("stop", f"has {len(wire.stop)} strings", f"give at most {MAX_STOPS}")
    for stop in wire.stop:
        if not 1 <= len(stop) <= MAX_STOP_CHARACTERS:
            raise _invalid(
                "stop",
                f"has a string of {len(stop)} characters",
                f"use 1 to {MAX_STOP_CHARACTERS}",
            )
    return tuple(wire.stop)


def _invalid(field: str, what: str, remedy: str) -> InvalidRequest:
    return InvalidRequest(f"{field} {what}", where=field, remedy=remedy)


def _unsupported(field: str) -> Unsupported:
    return Unsupported(f"{field} is not implemented", where=field, remedy="leave it out")
