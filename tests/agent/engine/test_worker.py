"""The worker as a process of its own, spoken to over its unix socket."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
import pytest_asyncio

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import (
    Corrupt,
    InvalidRequest,
    LiteLLMError,
    ModelNotFound,
    NoAgent,
)
from lite_llm.engine import Limits, Model, Request, Sampling, load_model
from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.testing.checkpoints import Shape, tiny_llama
from lite_llm.testing.guard import Guard
from lite_llm.wire import error_from, open_channel, ref_to_proto

if TYPE_CHECKING:
    from lite_llm.proto.v1.agent_pb2_grpc import AgentAsyncStub

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHAPE = Shape(context=20_000)  # room for answers that take long enough to be interrupted
WAIT = 60.0  # seconds; for the machine's worst day
MODEL = ref_to_proto(ModelRef("default", "tiny"))


TEMPLATE = """{{ bos_token }}{% for message in messages %}
{% if message.role not in ['user', 'assistant'] %}
{{ raise_exception('only users and assistants') }}{% endif %}
{{ message.role }}: {{ message.content }}
{% endfor %}{{ strftime_now('%Y') }}{% if add_generation_prompt %} assistant:{% endif %}"""


@pytest.fixture(scope="module")
def long_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return tiny_llama(directory, seed=5, shape=SHAPE, shards=2)


@pytest.fixture(scope="module")
def local(long_checkpoint: Path) -> Model:
    *_, model = load_model(long_checkpoint)
    assert isinstance(model, Model)
    return model


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard() as guard:
        yield guard


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(guard: Guard, long_checkpoint: Path) -> AsyncIterator[AgentAsyncStub]:
    path = guard.directory / "worker.sock"
    argv = [sys.executable, "-m", "lite_llm.engine.worker", "--socket", str(path), "--threads=1"]
    process = guard.spawn(argv, log="worker.log")
    async with open_channel(f"unix:{path}") as channel:
        await asyncio.wait_for(channel.channel_ready(), WAIT)
        stub: AgentAsyncStub = AgentStub(channel)
        await before_the_load(stub)
        await the_load(stub, long_checkpoint)
        yield stub
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT) == 0, guard.log_tail("worker.log")


async def before_the_load(worker: AgentAsyncStub) -> None:
    assert isinstance(await failure(worker, start(5)), NoAgent)
    status = (await worker.Status(agent_pb2.AgentStatusRequest())).residencies[0]
    assert status.state == model_pb2.MODEL_STATE_INIT


async def the_load(worker: AgentAsyncStub, directory: Path) -> None:
    for wrong, error in ((directory / "absent", ModelNotFound), (directory.parent, Corrupt)):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await loaded(worker, wrong)
        assert isinstance(error_from(raised.value, where="worker"), error)
    steps = await loaded(worker, directory)
    phases = [step.phase for step in steps]
    assert phases == sorted(phases)
    assert set(phases) == {generate_pb2.LOAD_PHASE_READ, generate_pb2.LOAD_PHASE_INIT}
    reading = [step for step in steps if step.phase == generate_pb2.LOAD_PHASE_READ]
    assert reading[0].done_bytes == 0
    assert reading[0].remaining_seconds < 0
    assert reading[-1].done_bytes == reading[-1].total_bytes > 0
    assert {step.model.name for step in steps} == {"tiny"}
    assert steps[-1].state == model_pb2.MODEL_STATE_ACTIVE
    with pytest.raises(grpc.aio.AioRpcError):
        await loaded(worker, directory)  # one model a worker


async def loaded(worker: AgentAsyncStub, directory: Path) -> list[generate_pb2.LoadProgress]:
    source = model_pb2.ModelSource(uri=str(directory))
    spec = model_pb2.ModelSpec(ref=MODEL, source=source)
    return [progress async for progress in worker.Load(agent_pb2.LoadRequest(spec=spec))]


def start(max_tokens: int, **fields: object) -> generate_pb2.GenerateRequest:
    sampling = generate_pb2.SamplingParameters(
        max_tokens=max_tokens, ignore_eos=True, seed=4, temperature=0.0
    )
    message = generate_pb2.GenerateStart(request_id="r", model=MODEL, text="the same")
    message.sampling.CopyFrom(sampling)
    message.MergeFrom(generate_pb2.GenerateStart(**fields))  # type: ignore[arg-type]  # any field
    return generate_pb2.GenerateRequest(start=message)


async def events(
    worker: AgentAsyncStub, *requests: generate_pb2.GenerateRequest
) -> list[generate_pb2.GenerateEvent]:
    return [event async for event in worker.Generate(iter(requests))]


async def read(call: Any) -> generate_pb2.GenerateEvent:
    event = await asyncio.wait_for(call.read(), WAIT)
    assert isinstance(event, generate_pb2.GenerateEvent)
    return event


async def rest(call: Any) -> list[generate_pb2.GenerateEvent]:
    found = []
    async with asyncio.timeout(WAIT):
        while (event := await call.read()) is not grpc.aio.EOF:
            found.append(event)
    return found


async def failure(worker: AgentAsyncStub, *requests: generate_pb2.GenerateRequest) -> LiteLLMError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await events(worker, *requests)
    return error_from(raised.value, where="worker")


async def wait_for_counts(worker: AgentAsyncStub, running: int, waiting: int) -> None:
    async with asyncio.timeout(WAIT):
        while True:
            report = await worker.Status(agent_pb2.AgentStatusRequest())
            status = report.residencies[0]
            if (status.running_requests, status.waiting_requests) == (running, waiting):
                return
            await asyncio.sleep(0.02)


async def test_an_answer_over_the_wire_is_the_engines(
    worker: AgentAsyncStub, local: Model, drive: Callable[..., Any]
) -> None:
    prompt = local.tokenizer.encode("the same")
    request = Request(prompt=prompt, sampling=Sampling(temperature=0), limits=Limits(max_tokens=20))
    expected = drive(other=local).run(request)[0].tokens()
    first, *middle, last = await events(worker, start(20))
    assert first.started.request_id == "r"
    assert first.started.prompt_tokens == len(prompt)
    assert [event.sequence for event in (first, *middle, last)] == list(range(22))
    assert [list(event.tokens.token_ids) for event in middle] == [[token.id] for token in expected]
    assert [event.tokens.text for event in middle] == [token.text for token in expected]
    finished = last.finished
    assert finished.reason == generate_pb2.FINISH_REASON_LENGTH
    assert finished.usage.prompt_tokens == len(prompt)
    assert finished.usage.completion_tokens == 20
    timings = finished.timings
    assert 0 < timings.prefill_seconds <= timings.first_token_seconds <= timings.total_seconds


async def test_a_resumed_stream_continues_the_numbers_and_the_bytes(
    worker: AgentAsyncStub,
) -> None:
    drawn = generate_pb2.SamplingParameters(temperature=1.0)
    whole = await events(worker, start(20, sampling=drawn))
    for cut in (1, 2, 11, 21):
        tokens = [token for event in whole[:cut] for token in event.tokens.token_ids]
        resume = generate_pb2.Resume(token_ids=generate_pb2.TokenIds(ids=tokens), next_sequence=cut)
        again = await events(worker, start(20, sampling=drawn, resume=resume))
        for event in (again[-1], whole[-1]):
            event.finished.ClearField("timings")
        assert again == whole[cut:]


async def test_cancel_ends_the_answer_with_an_event(worker: AgentAsyncStub) -> None:
    call = worker.Generate()
    await call.write(start(15_000))
    received = [await read(call) for _ in range(5)]
    cancel = generate_pb2.GenerateCancel(reason="enough")
    await call.write(generate_pb2.GenerateRequest(cancel=cancel))
    await call.done_writing()
    received += await rest(call)
    assert received[-1].finished.reason == generate_pb2.FINISH_REASON_CANCELLED
    assert [event.sequence for event in received] == list(range(len(received)))
    assert received[-1].finished.usage.completion_tokens == len(received) - 2 < 15_000
    await wait_for_counts(worker, 0, 0)


async def test_a_client_that_vanishes_has_cancelled(worker: AgentAsyncStub) -> None:
    call = worker.Generate(iter([start(15_000)]))
    assert (await read(call)).started.request_id == "r"
    await wait_for_counts(worker, 1, 0)
    call.cancel()
    await wait_for_counts(worker, 0, 0)


async def test_requests_run_side_by_side(worker: AgentAsyncStub) -> None:
    long = worker.Generate(iter([start(15_000)]))
    await read(long)
    alone = await events(worker, start(30))
    crowd = await asyncio.gather(*(events(worker, start(30)) for _ in range(8)))
    for answer in crowd:
        assert [event.tokens for event in answer] == [event.tokens for event in alone]
    await wait_for_counts(worker, 1, 0)
    long.cancel()
    await wait_for_counts(worker, 0, 0)


async def test_who_never_reads_is_paused_and_disturbs_nobody(worker: AgentAsyncStub) -> None:
    silent = worker.Generate(iter([start(15_000, text="never read")]))
    await wait_for_counts(worker, 1, 0)
    assert len(await events(worker, start(50))) == 52
    silent.cancel()
    await wait_for_counts(worker, 0, 0)


def said(events: list[generate_pb2.GenerateEvent], index: int = 0) -> list[int]:
    chunks = [event.tokens for event in events if event.HasField("tokens")]
    return [token for chunk in chunks if chunk.index == index for token in chunk.token_ids]


async def test_a_conversation_is_its_rendered_text(worker: AgentAsyncStub, local: Model) -> None:
    chat = generate_pb2.Chat(messages=[generate_pb2.ChatMessage(role="user", content="hi")])
    asked = start(5, chat=chat, created_at=1_753_012_800)
    text = "<s>user: hi\n2025 assistant:"
    ids = generate_pb2.TokenIds(ids=local.tokenizer.encode(text, bare=True))
    assert said(await events(worker, asked)) == said(await events(worker, start(5, token_ids=ids)))
    strange = generate_pb2.Chat(messages=[generate_pb2.ChatMessage(role="tool", content="hi")])
    error = await failure(worker, start(5, chat=strange))
    assert (type(error), error.where) == (InvalidRequest, "messages")
    assert "only users and assistants" in str(error)


async def test_several_sequences_with_logprobs(worker: AgentAsyncStub) -> None:
    sampling = generate_pb2.SamplingParameters(n=3, logprobs=2, prompt_logprobs=1, temperature=1.0)
    _, prompt, *others = await events(worker, start(6, sampling=sampling))
    assert len(prompt.prompt.logprobs) > 0
    assert [event.sequence for event in others] == list(range(2, 23))
    single = generate_pb2.SamplingParameters(temperature=1.0)
    assert said(others) == said(await events(worker, start(6, sampling=single)))
    assert len({tuple(said(others, index)) for index in range(3)}) == 3
    for event in others:
        for rated in event.tokens.logprobs:
            assert rated.token_id in [top.token_id for top in rated.top]
    ends = [event.finished for event in others if event.HasField("finished")]
    assert sorted(end.index for end in ends) == [0, 1, 2]


async def test_a_prompt_is_found_again_and_the_status_tells(worker: AgentAsyncStub) -> None:
    ids = generate_pb2.TokenIds(ids=list(range(2, 202)))
    for cached in (0, 192):
        finished = (await events(worker, start(3, token_ids=ids)))[-1].finished
        assert finished.usage.cached_prompt_tokens == cached
    report = await worker.Status(agent_pb2.AgentStatusRequest())
    assert 0 < report.residencies[0].kv_hit_rate < 1
    assert report.residencies[0].context_tokens == SHAPE.context


async def test_faults_are_told_and_disturb_nobody(worker: AgentAsyncStub) -> None:
    running = worker.Generate(iter([start(200)]))
    await read(running)
    error = await failure(worker, start(20_001))
    assert (type(error), error.where) == (InvalidRequest, "max_tokens")
    for field in ({"top_p": 0.0}, {"min_tokens": 9}, {"stop": ["x" * 10_000]}):
        sampling = generate_pb2.SamplingParameters(**field)
        error = await failure(worker, start(5, sampling=sampling))
        assert (type(error), error.where) == (InvalidRequest, min(field))
    assert isinstance(await failure(worker), InvalidRequest)
    cancel = generate_pb2.GenerateRequest(cancel=generate_pb2.GenerateCancel())
    assert isinstance(await failure(worker, cancel), InvalidRequest)
    assert len(await rest(running)) == 201
