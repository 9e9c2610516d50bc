"""Steps become numbered events with usage and timings."""

from collections.abc import Callable
from typing import Any

import pytest

from lite_llm.engine import (
    Finished,
    FinishReason,
    Logprobs,
    Measures,
    Model,
    PromptRead,
    Request,
    Resumed,
    Started,
    Step,
    Token,
)
from lite_llm.engine.answer import Answer
from lite_llm.engine.tier_grants import Grant
from lite_llm.proto.v1 import generate_pb2 as wire
from lite_llm.telemetry import Metrics

RATED = Logprobs(5, -2.5, ((7, -0.5), (9, -1.0)))
LENGTH = FinishReason.LENGTH


class Clock:
    """A second later at each look."""

    def __init__(self) -> None:
        self.now = 99.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def told(model: Model, metrics: Metrics) -> Callable[..., Any]:
    def new(
        request: Request, *steps: Step, next_sequence: int = 0, **fields: Any
    ) -> list[wire.GenerateEvent]:
        resume = wire.Resume(next_sequence=next_sequence)
        start = wire.GenerateStart(request_id="r", resume=resume, **fields)
        measures = Measures(metrics, "tiny")
        answer = Answer(start, request, model.tokenizer, measures, clock=Clock())
        events = [event for step in steps if (event := answer.event(step))]
        answer.over(None)
        return events

    return new


def test_a_stream_of_two_sequences(told: Any, ask: Any, metrics: Metrics) -> None:
    events = told(
        ask(prompt=[1, 2, 3], n=2),
        Started(2),
        PromptRead(),
        Token(0, 5, "a"),
        Token(1, 6, "b"),
        Token(0, 5, "c"),
        Finished(0, LENGTH),
        Finished(1, FinishReason.STOP),
    )
    assert [event.sequence for event in events] == list(range(6))
    assert events[0].started == wire.GenerateStarted(request_id="r", prompt_tokens=3)
    assert [event.tokens.index for event in events[1:4]] == [0, 1, 0]
    first, second = events[4].finished, events[5].finished
    assert (first.index, second.index) == (0, 1)
    assert second.reason == wire.FINISH_REASON_STOP
    assert first.usage == wire.Usage(prompt_tokens=3, cached_prompt_tokens=2, completion_tokens=2)
    assert second.usage.completion_tokens == 1
    timings = first.timings
    assert (timings.queue_seconds, timings.prefill_seconds) == (1, 1)
    assert (timings.first_token_seconds, timings.total_seconds) == (3, 6)
    value = metrics.registry.get_sample_value
    labels = {"model_name": "tiny", "engine": "0"}
    assert value("vllm:generation_tokens_total", labels) == 3
    assert value("vllm:inter_token_latency_seconds_count", labels) == 1
    assert value("vllm:request_success_total", {**labels, "finished_reason": "stop"}) == 1


def test_what_was_decided_is_told_at_the_start(told: Any, ask: Any) -> None:
    request = ask(prompt=[1, 5, 5], tiers=Grant(("near", "far"), frozenset({0, 1})))
    [plain] = told(request, Started(0))
    [whole] = told(request, Started(0), return_prompt_ids=True)
    assert plain.started.tiers == whole.started.tiers == ["near", "far"]
    assert not plain.started.HasField("prompt_ids")
    assert whole.started.prompt_ids.ids == [1, 5, 5]


def test_logprobs_tell_each_tokens_text(told: Any, ask: Any, model: Model) -> None:
    request = ask(prompt=[1, 5], logprobs=2, prompt_logprobs=2)
    steps = (Started(0), PromptRead((RATED,)), Token(0, 5, "x", RATED))
    _, prompt, token = told(request, *steps)
    [rated] = token.tokens.logprobs
    assert list(prompt.prompt.logprobs) == [rated]
    assert (rated.token_id, rated.logprob) == (5, -2.5)
    assert [(top.token_id, top.logprob) for top in rated.top] == [(7, -0.5), (9, -1.0), (5, -2.5)]
    assert [top.text for top in rated.top] == [model.tokenizer.decode([i]) for i in (7, 9, 5)]


def test_a_resumed_stream_goes_on_with_its_numbers(told: Any, ask: Any) -> None:
    request = ask(resumed=(Resumed((5, 6)),))
    token, finished = told(
        request, Started(0), Token(0, 5, "a"), Finished(0, LENGTH), next_sequence=3
    )
    assert (token.sequence, finished.sequence) == (3, 4)
    assert finished.finished.usage.completion_tokens == 3
