"""Requests off the wire are understood, or refused by the name of the field."""

from typing import Any

import pytest

from lite_llm.contracts.errors import InvalidRequest, LiteLLMError, Unsupported
from lite_llm.engine import Limits, Model, Request, Sampling, Tokenizer
from lite_llm.engine.requests import request_from_proto
from lite_llm.proto.v1.generate_pb2 import (
    Chat,
    GenerateStart,
    Resume,
    SamplingParameters,
    TierSelection,
    TokenIds,
)


def start(**fields: Any) -> GenerateStart:
    return GenerateStart(**({"token_ids": TokenIds(ids=[0, 5, 6])} | fields))


def sampled(**fields: Any) -> GenerateStart:
    return start(sampling=SamplingParameters(**fields))


def test_defaults(model: Model) -> None:
    assert request_from_proto(start(), model) == Request(
        prompt=(0, 5, 6),
        sampling=Sampling(temperature=0),
        limits=Limits(max_tokens=512 - 3, stop_tokens=frozenset({1})),
    )


def test_everything_given(model: Model) -> None:
    wire = SamplingParameters(
        max_tokens=9,
        temperature=0.5,
        top_p=0.25,
        top_k=4,
        seed=2**63 + 1,
        stop=["a", "bb"],
        stop_token_ids=[7],
        ignore_eos=True,
        repetition_penalty=1,
        n=1,
    )
    resume = Resume(token_ids=TokenIds(ids=[8, 9]), next_sequence=3)
    asked = GenerateStart(text="hi", sampling=wire, resume=resume)
    assert request_from_proto(asked, model) == Request(
        prompt=model.tokenizer.encode("hi"),
        sampling=Sampling(temperature=0.5, top_p=0.25, top_k=4, seed=2**63 + 1),
        limits=Limits(max_tokens=9, stop=("a", "bb"), stop_tokens=frozenset({7})),
        resume=(8, 9),
    )


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (GenerateStart(), "prompt"),
        (GenerateStart(text=""), "prompt"),
        (start(token_ids=TokenIds()), "prompt"),
        (start(token_ids=TokenIds(ids=[0, 320])), "prompt"),
        (start(token_ids=TokenIds(ids=[2] * 512)), "prompt"),
        (sampled(max_tokens=510), "max_tokens"),
        (sampled(temperature=-1), "temperature"),
        (sampled(temperature=float("nan")), "temperature"),
        (sampled(top_p=1.5), "top_p"),
        (sampled(top_p=-0.5), "top_p"),
        (sampled(stop=[""]), "stop"),
        (sampled(stop=["x" * 10_000]), "stop"),
        (sampled(stop=["x"] * 17), "stop"),
        (start(resume=Resume(token_ids=TokenIds(ids=[5]))), "resume"),
        (start(resume=Resume(token_ids=TokenIds(ids=[999]), next_sequence=2)), "resume"),
        (start(tiers=TierSelection(tiers=["deep"])), "tiers"),
    ],
)
def test_what_can_not_be_meant_is_named(model: Model, asked: GenerateStart, field: str) -> None:
    assert refusal(model, asked, InvalidRequest) == field


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (sampled(min_tokens=1), "min_tokens"),
        (sampled(min_p=0.1), "min_p"),
        (sampled(presence_penalty=0.1), "presence_penalty"),
        (sampled(frequency_penalty=-0.1), "frequency_penalty"),
        (sampled(repetition_penalty=1.1), "repetition_penalty"),
        (sampled(n=2), "n"),
        (sampled(logprobs=0), "logprobs"),
        (GenerateStart(chat=Chat()), "chat"),
    ],
)
def test_what_is_not_implemented_is_named(model: Model, asked: GenerateStart, field: str) -> None:
    assert refusal(model, asked, Unsupported) == field


def test_a_text_that_can_not_fit_is_refused_unread(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tokenizer, "encode", lambda *_: pytest.fail("it was read"))
    assert refusal(model, GenerateStart(text="the quick " * 100_000), InvalidRequest) == "prompt"


def refusal(model: Model, asked: GenerateStart, kind: type[LiteLLMError]) -> str:
    with pytest.raises(kind) as raised:
        request_from_proto(asked, model)
    assert raised.value.remedy
    return raised.value.where
