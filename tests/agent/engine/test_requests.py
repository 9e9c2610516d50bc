"""Requests off the wire are understood, or refused by the name of the field."""

from dataclasses import replace
from typing import Any

import pytest

from lite_llm.contracts.errors import Corrupt, InvalidRequest, Unsupported
from lite_llm.engine import Limits, Model, Request, Resumed, Sampling, Tokenizer, requests
from lite_llm.engine.defaults import Defaults
from lite_llm.engine.requests import request_from_proto
from lite_llm.engine.tier_grants import TierGrants
from lite_llm.proto.v1.generate_pb2 import (
    GenerateStart,
    Resume,
    ResumedSequence,
    SamplingParameters,
    TierSelection,
    TokenIds,
)

ROOM = 512


def understood(asked: GenerateStart, model: Model, **more: Any) -> Request:
    return request_from_proto(asked, model, room=ROOM, tiers=TierGrants(model), **more)


def start(**fields: Any) -> GenerateStart:
    return GenerateStart(**({"token_ids": TokenIds(ids=[0, 5, 6])} | fields))


def sampled(**fields: Any) -> GenerateStart:
    return start(sampling=SamplingParameters(**fields))


def ids(*tokens: int) -> TokenIds:
    return TokenIds(ids=tokens)


def resumed(n: int = 1, **fields: Any) -> GenerateStart:
    sampling = SamplingParameters(n=n, max_tokens=3)
    return start(sampling=sampling, resume=Resume(**({"next_sequence": 2} | fields)))


def test_defaults(model: Model) -> None:
    assert understood(start(), model) == Request(
        prompt=(0, 5, 6),
        sampling=Sampling(),
        limits=Limits(max_tokens=512 - 3, stop_tokens=frozenset({1})),
    )


def test_everything_given(model: Model) -> None:
    wire = SamplingParameters(
        max_tokens=9,
        min_tokens=2,
        temperature=0.5,
        top_p=0.25,
        top_k=4,
        min_p=0.125,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.5,
        logit_bias={7: 2.0, 3: -1.0},
        seed=2**63 + 1,
        stop=["a", "bb"],
        include_stop=True,
        stop_token_ids=[7],
        ignore_eos=True,
        n=2,
        logprobs=0,
        prompt_logprobs=5,
    )
    entries = [ResumedSequence(token_ids=ids(8, 9), finished=True), ResumedSequence()]
    asked = GenerateStart(
        text="hi",
        sampling=wire,
        resume=Resume(next_sequence=3, sequences=entries),
        tenant="us",
        priority=-2,
    )
    assert understood(asked, model) == Request(
        prompt=model.tokenizer.encode("hi"),
        sampling=Sampling(
            temperature=0.5,
            top_p=0.25,
            top_k=4,
            min_p=0.125,
            presence_penalty=0.5,
            frequency_penalty=-0.5,
            repetition_penalty=1.5,
            logit_bias=((3, -1.0), (7, 2.0)),
            seed=2**63 + 1,
        ),
        limits=Limits(
            max_tokens=9,
            min_tokens=2,
            stop=("a", "bb"),
            stop_tokens=frozenset({7}),
            include_stop=True,
        ),
        n=2,
        logprobs=0,
        prompt_logprobs=5,
        resumed=(Resumed((8, 9), finished=True), Resumed()),
        tenant="us",
        priority=-2,
    )


def test_a_conversation_begins_as_its_template_says(model: Model) -> None:
    request = understood(GenerateStart(), model, conversation="<s>hi")
    assert request.prompt == model.tokenizer.encode("hi")  # one token that begins a text, not two


def test_the_checkpoint_decides_what_a_request_leaves_open(model: Model) -> None:
    data = b'{"temperature": 0.5, "top_k": 9, "top_p": 0.75, "min_p": 0.25, "eos_token_id": [1, 7]}'
    own = replace(model, defaults=Defaults.parse(data, "generation_config.json", vocab=320))
    open_ = understood(sampled(top_p=0.5), own)
    assert open_.sampling == Sampling(temperature=0.5, top_k=9, top_p=0.5, min_p=0.25)
    assert open_.limits.stop_tokens == {1, 7}
    closed = sampled(temperature=0, top_k=0, top_p=1, min_p=0)
    assert understood(closed, own).sampling == Sampling(temperature=0)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b'{"temperature": -1}', "temperature"),
        (b'{"top_p": 0}', "top_p"),
        (b'{"top_k": 1.5}', "top_k"),
        (b'{"temperature": 1' + b"0" * 400 + b"}", "temperature"),
        (b'{"repetition_penalty": "high"}', "repetition_penalty"),
        (b'{"eos_token_id": 320}', "eos_token_id"),
        (b'{"eos_token_id": [[1]]}', "eos_token_id"),
    ],
)
def test_defaults_that_make_no_sense_are_the_checkpoints_fault(data: bytes, field: str) -> None:
    with pytest.raises(Corrupt) as raised:
        Defaults.parse(data, "generation_config.json", vocab=320)
    assert raised.value.where == field


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (GenerateStart(), "prompt"),
        (GenerateStart(text=""), "prompt"),
        (start(token_ids=TokenIds()), "prompt"),
        (start(token_ids=ids(0, 320)), "prompt"),
        (start(token_ids=ids(*[2] * 512)), "prompt"),
        (sampled(max_tokens=510), "max_tokens"),
        (sampled(max_tokens=3, min_tokens=4), "min_tokens"),
        (sampled(min_tokens=510), "min_tokens"),
        (sampled(temperature=-1), "temperature"),
        (sampled(temperature=float("nan")), "temperature"),
        (sampled(top_p=0), "top_p"),
        (sampled(top_p=1.5), "top_p"),
        (sampled(min_p=1), "min_p"),
        (sampled(repetition_penalty=0), "repetition_penalty"),
        (sampled(presence_penalty=3), "presence_penalty"),
        (sampled(frequency_penalty=float("inf")), "frequency_penalty"),
        (sampled(logit_bias={320: 1.0}), "logit_bias"),
        (sampled(logit_bias={1: 1000.0}), "logit_bias"),
        (sampled(stop=[""]), "stop"),
        (sampled(stop=["x" * 10_000]), "stop"),
        (sampled(stop=["x"] * 17), "stop"),
        (sampled(stop_token_ids=[320]), "stop_token_ids"),
        (sampled(n=129), "n"),
        (sampled(logprobs=101), "logprobs"),
        (sampled(prompt_logprobs=101), "prompt_logprobs"),
        (resumed(token_ids=ids(5), next_sequence=0), "resume"),
        (resumed(sequences=[ResumedSequence(finished=True)]), "resume"),
        (resumed(token_ids=ids(999)), "resume"),
        (resumed(token_ids=ids(2, 2, 2, 2)), "resume"),
        (resumed(n=2, token_ids=ids(5)), "resume"),
        (resumed(n=2, sequences=[ResumedSequence()]), "resume"),
        (start(tiers=TierSelection(tiers=["deep"])), "lite_llm.tier_set"),
    ],
)
def test_what_can_not_be_meant_is_named(model: Model, asked: GenerateStart, field: str) -> None:
    assert refusal(model, asked).where == field


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        (sampled(default_max_tokens=16), 16),
        (sampled(default_max_tokens=16, max_tokens=20), 20),
        (sampled(default_max_tokens=1000), ROOM - 3),
        (sampled(default_max_tokens=16, min_tokens=40), 40),
    ],
)
def test_a_default_limit_gives_way_to_the_context(
    model: Model, asked: GenerateStart, allowed: int
) -> None:
    assert understood(asked, model).limits.max_tokens == allowed


def test_an_answer_is_not_held_to_a_schema(model: Model) -> None:
    with pytest.raises(Unsupported, match="schema") as raised:
        understood(sampled(json_schema="{}"), model)
    assert raised.value.where == "response_format"


def test_a_limit_that_nobody_set_is_not_blamed_on_the_client(model: Model) -> None:
    assert "max_tokens" not in str(refusal(model, sampled(min_tokens=510)))
    assert "max_tokens" not in str(refusal(model, start(token_ids=ids(*[2] * 512))))


def test_a_text_that_can_not_fit_is_refused_unread(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tokenizer, "encode", lambda *_: pytest.fail("it was read"))
    assert refusal(model, GenerateStart(text="the quick " * 100_000)).where == "prompt"


def refusal(model: Model, asked: GenerateStart) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        understood(asked, model)
    assert raised.value.remedy
    return raised.value


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_of_which_only_the_start_was_told_begins_anew(model: Model, n: int) -> None:
    assert understood(resumed(n=n, next_sequence=1), model).resumed == ()


def test_a_prompts_logprobs_fit_one_event(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_PROMPT_LOGPROBS", 3 * (2 + 1))
    assert understood(sampled(prompt_logprobs=2), model).prompt_logprobs == 2
    assert refusal(model, sampled(prompt_logprobs=3)).where == "prompt_logprobs"
