"""Pieces of a server's answer become our events: every number adds up."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from tests.agent.backends.stand_in import METRICS

from lite_llm.backends import BACKENDS, Piece, foreign_backend, worker_module
from lite_llm.backends.answer import Answer
from lite_llm.backends.measures import Measures
from lite_llm.backends.openai_protocol import pieces_of
from lite_llm.backends.seeds import seed_for
from lite_llm.contracts.errors import AgentLost, BackendFailed, Unsupported
from lite_llm.proto.v1 import generate_pb2 as wire

STOP = wire.FINISH_REASON_STOP


def answer_to(n: int = 1, next_sequence: int = 0) -> Answer:
    start = wire.GenerateStart(request_id="r", sampling=wire.SamplingParameters(n=n))
    start.resume.next_sequence = next_sequence
    ticks = count()
    return Answer(start, Measures("default/tiny"), clock=lambda: float(next(ticks)))


@given(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=3), st.integers(0, 2))))
def test_events_are_numbered_and_tokens_counted(told: list[tuple[int, str, int]]) -> None:
    answer = answer_to(n=3)
    events = [
        event
        for index, text, num_ids in told
        for event in answer.events(index, Piece(text=text, token_ids=(5,) * num_ids))
    ]
    for index in range(3):
        list(answer.events(index, Piece(reason=STOP)))
        events.append(answer.finished(index))
    numbers = [event.sequence for event in events]
    assert numbers == sorted(set(numbers))
    for index, end in enumerate(events[-3:]):
        mine = [each for each in told if each[0] == index]
        assert end.finished.usage.completion_tokens == sum(each[2] for each in mine)
        texts = [each.tokens.text for each in events if each.tokens.index == index]
        assert "".join(texts) == "".join(each[1] for each in mine)


def test_a_server_that_counts_knows_more_than_the_ids_it_tells() -> None:
    answer = answer_to()
    list(answer.events(0, Piece(text="a", token_ids=(1,), prompt_tokens=9, completion_tokens=1)))
    list(answer.events(0, Piece(reason=STOP, completion_tokens=4, cached_tokens=3)))
    usage = wire.Usage(prompt_tokens=9, cached_prompt_tokens=3, completion_tokens=4)
    assert answer.finished(0).finished.usage == usage


def test_who_lost_the_stream_after_its_start_is_not_told_the_start_again() -> None:
    (event,) = answer_to(next_sequence=1).events(0, Piece(text="a"))
    assert (event.sequence, event.tokens.text) == (1, "a")


def test_an_answer_without_an_end_was_broken_off() -> None:
    answer = answer_to()
    list(answer.events(0, Piece(text="a")))
    with pytest.raises(AgentLost, match="broke off"):
        answer.finished(0)


def chat_chunk() -> dict[str, object]:
    top = [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -2.0}]
    rated = {"token": "a", "logprob": -0.1, "top_logprobs": top}
    choice = {"delta": {"content": "a"}, "token_ids": [7], "logprobs": {"content": [rated]}}
    return {"choices": [choice], "usage": None, "prompt_token_ids": [1, 2]}


def text_chunk() -> dict[str, object]:
    rated = {"tokens": ["a"], "token_logprobs": [-0.1], "top_logprobs": [{"a": -0.1, "b": -2.0}]}
    return {"choices": [{"text": "a", "token_ids": [7], "logprobs": rated}]}


@pytest.mark.parametrize("chunk", [chat_chunk(), text_chunk()], ids=["chat", "text"])
def test_log_probabilities_of_both_forms(chunk: dict[str, object]) -> None:
    (piece,) = pieces_of(chunk)
    (rated,) = piece.logprobs
    assert (piece.text, piece.token_ids, rated.token_id) == ("a", (7,), 7)
    assert math.isclose(rated.logprob, -0.1, rel_tol=1e-6)
    # The protocol tells other tokens by their text alone.
    assert [(top.text, top.token_id) for top in rated.top] == [("a", 7), ("b", 0)]


def test_the_servers_own_metrics_pass_under_declared_names() -> None:
    measures = Measures("default/tiny")
    text = measures.text(METRICS, foreign_backend("vllm").metric_names)
    samples = {
        (sample.name, sample.labels["engine"], sample.labels.get("le")): sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert {sample.labels["model_name"] for sample in samples.values()} == {"default/tiny"}
    assert samples["vllm:num_requests_waiting", "1", None].value == 1
    assert samples["vllm:kv_cache_usage_perc", "0", None].value == 0.25
    assert samples["vllm:prefix_cache_hits_total", "0", None].value == 64
    assert samples["vllm:request_queue_time_seconds_bucket", "0", "0.3"].value == 4
    # What we count ourselves is not taken from the server.
    assert samples["vllm:num_requests_running", "0", None].value == 0
    assert not any(name.startswith(("http", "process")) for name, _, _ in samples)
    with pytest.raises(BackendFailed, match="can't be read"):
        measures.text("vllm:x{ 3 4 5", foreign_backend("vllm").metric_names)


def seeds(bits: int) -> Iterator[int]:
    for seed in (0, 1, (1 << 32) - 1, 1 << 63, (1 << 64) - 1):
        for index in range(20):
            yield seed_for(seed, index, bits)


@pytest.mark.parametrize("bits", [32, 63])
def test_seeds_fit_and_differ(bits: int) -> None:
    found = list(seeds(bits))
    assert all(0 <= seed < (1 << bits) - 1 for seed in found)
    assert len(set(found)) > 95
    assert seed_for(42, 0, bits) == 42


def test_backends_by_name() -> None:
    assert worker_module("") == worker_module("native") == "lite_llm.engine.worker"
    assert {worker_module(name) for name in BACKENDS[1:]} == {"lite_llm.backends.worker"}
    with pytest.raises(Unsupported, match="native, llamacpp, vllm, tokasaurus"):
        worker_module("vLLM")


def test_whole_answers_have_their_tokens_in_the_fingerprint() -> None:
    message = {
        "choices": [{"message": {"content": "hi"}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 2},
        "system_fingerprint": json.dumps({"completion_ids": [[4, 5]]}),
    }
    first, second = foreign_backend("tokasaurus").pieces(message)
    assert (first.text, first.token_ids) == ("hi", (4, 5))
    assert first.reason == wire.FINISH_REASON_LENGTH
    assert (second.prompt_tokens, second.completion_tokens) == (2, 2)
