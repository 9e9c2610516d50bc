"""llama.cpp's own server on a GGUF file made here, beside our engine on the same weights."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families
from tests.agent.backends.conftest import MODEL, OpenWorker, Worker
from tests.agent.backends.gguf_file import write_gguf
from tests.agent.engine.conftest import Driver

from lite_llm.contracts.errors import InvalidRequest, ModelNotFound, Unsupported, WorkerCrashed
from lite_llm.engine import Limits, Model, Request, Sampling, load_model
from lite_llm.proto.v1 import agent_pb2, model_pb2
from lite_llm.proto.v1 import generate_pb2 as wire
from lite_llm.testing.checkpoints import Shape, tiny_llama

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHAPE = Shape(context=4096)
SEED = 5
WAIT = 60.0  # seconds; for the machine's worst day
PROMPT = "the quick brown fox"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("checkpoint"), seed=SEED, shape=SHAPE)


@pytest.fixture(scope="module")
def gguf_path(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return write_gguf(checkpoint, path, seed=SEED, shape=SHAPE)


@pytest.fixture(scope="module")
def size(gguf_path: Path) -> int:
    return gguf_path.stat().st_size


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(open_worker: OpenWorker, gguf_path: Path, size: int) -> AsyncIterator[Worker]:
    async with open_worker() as worker:
        steps = await worker.load("llamacpp", gguf_path)
        assert {step.total_bytes for step in steps} == {size, 0}
        assert [step.state for step in steps][-2:] == [
            model_pb2.MODEL_STATE_WARM,
            model_pb2.MODEL_STATE_ACTIVE,
        ]
        yield worker


def start(max_tokens: int = 16, **fields: Any) -> wire.GenerateStart:
    sampling = {"temperature": 0.0, "ignore_eos": True, **fields.pop("sampling", {})}
    if not fields.keys() & {"text", "token_ids", "chat"}:
        fields["text"] = PROMPT
    return wire.GenerateStart(
        request_id="r",
        model=MODEL,
        sampling=wire.SamplingParameters(max_tokens=max_tokens, **sampling),
        **fields,
    )


def text_of(events: list[wire.GenerateEvent], index: int = 0) -> str:
    return "".join(each.tokens.text for each in events if each.tokens.index == index)


def ids_of(events: list[wire.GenerateEvent]) -> list[int]:
    return [number for each in events for number in each.tokens.token_ids]


async def test_the_context_is_the_models(worker: Worker) -> None:
    residency = (await worker.status()).residencies[0]
    assert residency.context_tokens == SHAPE.context
    assert residency.state == model_pb2.MODEL_STATE_ACTIVE


async def test_events_are_numbered_and_add_up(worker: Worker) -> None:
    events = await worker.events(start(16))
    assert [event.sequence for event in events] == list(range(len(events)))
    first, *middle, last = events
    assert first.started.request_id == "r"
    finished = last.finished
    assert finished.reason == wire.FINISH_REASON_LENGTH
    assert finished.usage.completion_tokens == 16
    assert finished.usage.prompt_tokens == first.started.prompt_tokens > 4
    assert all(event.tokens.token_ids for event in middle)
    timings = finished.timings
    assert 0 < timings.first_token_seconds <= timings.total_seconds


async def test_greedy_tokens_and_log_probabilities_are_our_engines(
    worker: Worker, checkpoint: Path
) -> None:
    *_, model = load_model(checkpoint)
    assert isinstance(model, Model)
    prompt = model.tokenizer.encode(PROMPT)
    expected = iter(greedy(model, prompt, 24))
    ids = wire.TokenIds(ids=prompt)
    events = await worker.events(start(24, token_ids=ids, sampling={"logprobs": 2}))
    assert text_of(await worker.events(start(24))) == text_of(events)
    rated = [each for event in events for each in event.tokens.logprobs]
    assert [each.token_id for each in rated] == ids_of(events)
    assert len(rated) > 4
    # It tells no ids of a character in several pieces; those that it tells are in our order.
    for each in rated:
        logprob = next(value for number, value in expected if number == each.token_id)
        assert math.isclose(each.logprob, logprob, abs_tol=1e-2)
        assert each.top[0].token_id == each.token_id
        assert len(each.top) == 2


def greedy(model: Model, prompt: tuple[int, ...], num_tokens: int) -> list[tuple[int, float]]:
    request = Request(
        prompt=prompt,
        sampling=Sampling(temperature=0),
        limits=Limits(max_tokens=num_tokens),
        logprobs=0,
    )
    driver = Driver(model)
    (reader,) = driver.run(request)
    driver.close()
    return [(each.id, each.logprobs.logprob) for each in reader.tokens() if each.logprobs]


async def test_a_seed_fixes_the_answer_and_sequences_differ(worker: Worker) -> None:
    drawn = {"temperature": 1.0, "seed": 1 << 40, "n": 3}
    first, second = [await worker.events(start(16, sampling=drawn)) for _ in range(2)]
    texts = [text_of(first, index) for index in range(3)]
    assert texts == [text_of(second, index) for index in range(3)]
    assert len(set(texts)) == 3
    assert [event.sequence for event in first] == list(range(len(first)))
    ends = [event.finished for event in first if event.WhichOneof("event") == "finished"]
    assert sorted(end.index for end in ends) == [0, 1, 2]
    assert all(end.usage.completion_tokens == 16 for end in ends)


async def test_a_stop_string_ends_the_answer_and_is_not_in_it(worker: Worker) -> None:
    whole = text_of(await worker.events(start(24)))
    stop = re.findall("[a-z]{3}", whole)[0]  # whole characters: pieces of others are not looked at
    events = await worker.events(start(24, sampling={"stop": [stop]}))
    assert text_of(events) == whole[: whole.index(stop)]
    assert events[-1].finished.reason == wire.FINISH_REASON_STOP


async def test_a_conversation_is_rendered_by_the_files_own_template(worker: Worker) -> None:
    chat = wire.Chat(messages=[wire.ChatMessage(role="user", content="hello")])
    rendered = "<|user|>hello\n<|assistant|>"
    answers = [
        await worker.events(start(8, **fields)) for fields in ({"chat": chat}, {"text": rendered})
    ]
    assert text_of(answers[0]) == text_of(answers[1])
    prompts = {answer[0].started.prompt_tokens for answer in answers}
    assert len(prompts) == 1


async def test_cancel_ends_the_answer_and_the_servers_work(worker: Worker) -> None:
    call = worker.stub.Generate()
    await call.write(wire.GenerateRequest(start=start(0)))
    received = [await asyncio.wait_for(call.read(), WAIT) for _ in range(3)]
    cancel = wire.GenerateCancel(reason="enough")
    await call.write(wire.GenerateRequest(cancel=cancel))
    await call.done_writing()
    while (event := await asyncio.wait_for(call.read(), WAIT)) is not grpc.aio.EOF:
        received.append(event)
    last = received[-1]
    assert isinstance(last, wire.GenerateEvent)
    assert last.finished.reason == wire.FINISH_REASON_CANCELLED
    assert (await worker.status()).residencies[0].running_requests == 0
    # Not one of its four slots is held: as many long answers again begin at once.
    await asyncio.gather(*(worker.events(start(4)) for _ in range(8)))


async def test_what_it_has_not_got_is_refused_by_name(worker: Worker) -> None:
    refused: list[tuple[str, dict[str, Any]]] = [
        ("min_tokens", {"sampling": {"min_tokens": 3}}),
        ("stop_token_ids", {"sampling": {"stop_token_ids": [7]}}),
        ("include_stop", {"sampling": {"include_stop": True}}),
        ("prompt_logprobs", {"sampling": {"prompt_logprobs": 0}}),
        ("tiers", {"tiers": wire.TierSelection(tiers=["hot"])}),
        ("resume", {"resume": wire.Resume(next_sequence=3)}),
    ]
    for name, fields in refused:
        with pytest.raises(Unsupported, match=name):
            await worker.events(start(4, **fields))


async def test_what_the_server_refuses_is_the_requests_fault(worker: Worker) -> None:
    too_long = wire.TokenIds(ids=[5] * (SHAPE.context + 1))
    with pytest.raises(InvalidRequest, match=r"refuses.*context"):
        await worker.events(start(4, token_ids=too_long))


async def test_metrics_have_declared_names(worker: Worker) -> None:
    await worker.events(start(4))
    report = await worker.stub.Metrics(agent_pb2.MetricsRequest())
    samples = {
        sample.name: sample
        for family in text_string_to_metric_families(report.text)
        for sample in family.samples
    }
    labels = {"model_name": "default/tiny", "engine": "0"}
    assert samples["vllm:generation_tokens_total"].value >= 4
    assert samples["vllm:generation_tokens_total"].labels == labels
    assert samples["vllm:num_requests_running"].value == 0
    assert samples["vllm:num_requests_waiting"].labels == labels
    assert all(name.startswith("vllm:") for name in samples)


async def test_a_file_that_is_no_gguf_fails_the_load_and_not_the_worker(
    open_worker: OpenWorker, gguf_path: Path, tmp_path: Path
) -> None:
    (broken := tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    async with open_worker() as worker:
        with pytest.raises(WorkerCrashed, match="ended"):
            await worker.load("llamacpp", broken)
        with pytest.raises(ModelNotFound):
            await worker.load("llamacpp", tmp_path / "absent.gguf")
        with pytest.raises(InvalidRequest, match="GGUF"):
            await worker.load("llamacpp", tmp_path.parent)
        assert (await worker.load("llamacpp", gguf_path.parent))[-1].state == (
            model_pb2.MODEL_STATE_ACTIVE
        )
        assert text_of(await worker.events(start(4)))
