"""Every fault of a foreign server, as a client of its worker meets it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import psutil
import pytest
import pytest_asyncio
from tests.agent.backends.conftest import MODEL, OpenWorker, Worker, load_request

from lite_llm.contracts.errors import (
    AgentLost,
    BackendFailed,
    DeadlineExceeded,
    InvalidRequest,
    InvalidSettings,
    LiteLLMError,
    NoAgent,
    Overloaded,
    Unsupported,
    WorkerCrashed,
)
from lite_llm.proto.v1 import agent_pb2, model_pb2
from lite_llm.proto.v1 import generate_pb2 as wire

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT = 60.0  # seconds; for the machine's worst day


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As much of one as a stand-in looks at: nothing."""
    directory = tmp_path_factory.mktemp("checkpoint")
    (directory / "config.json").write_text(json.dumps({"max_position_embeddings": 2048}))
    (directory / "model.safetensors").write_bytes(bytes(1000))
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(
    open_worker: OpenWorker, stand_ins: None, checkpoint: Path
) -> AsyncIterator[Worker]:
    """With a server that answers each request as its prompt says."""
    async with open_worker(silence_seconds=1.0) as worker:
        await worker.load("vllm", checkpoint)
        yield worker


def start(prompt: str, **fields: Any) -> wire.GenerateStart:
    return wire.GenerateStart(request_id="r", model=MODEL, text=prompt, **fields)


async def failure(worker: Worker, prompt: str) -> tuple[list[wire.GenerateEvent], LiteLLMError]:
    """What came of an answer before it failed, and how it did."""
    events = []
    try:
        async for event in worker.stub.Generate(iter([wire.GenerateRequest(start=start(prompt))])):
            events.append(event)
    except grpc.aio.AioRpcError as raised:
        return events, Worker.error(raised)
    raise AssertionError(f"{prompt} did not fail")


async def seen(worker: Worker) -> dict[str, int]:
    path = str(worker.socket.with_suffix(".server.sock"))
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session,
        session.get("http://localhost/seen") as response,
    ):
        told: dict[str, int] = await response.json()
        return told


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT):
        while not await is_so():  # noqa: ASYNC110 - another process tells nothing by itself
            await asyncio.sleep(0.02)


async def test_a_good_answer(worker: Worker) -> None:
    first, *middle, last = await worker.events(start("hello"))
    assert first.started.prompt_tokens == 4
    assert "".join(event.tokens.text for event in middle) == "one two three"
    assert last.finished.reason == wire.FINISH_REASON_STOP
    assert last.finished.usage == wire.Usage(prompt_tokens=4, completion_tokens=4)


@pytest.mark.parametrize(
    ("prompt", "kind", "words"),
    [
        ("garbage", BackendFailed, "no JSON"),
        ("a list", BackendFailed, "no JSON object"),
        ("not a chunk", BackendFailed, "not as vllm sends"),
        ("unknown end", BackendFailed, "eaten"),
        ("no text", BackendFailed, "no text"),
        ("flood", BackendFailed, "more than"),
        ("told", BackendFailed, "boom"),
        ("told 400", InvalidRequest, "bad prompt"),
        ("cut", AgentLost, "hung up"),
        ("no end", AgentLost, "broke off"),
        ("silent", DeadlineExceeded, "says nothing"),
    ],
)
async def test_a_fault_in_the_middle_of_a_stream(
    worker: Worker, prompt: str, kind: type[LiteLLMError], words: str
) -> None:
    events, error = await failure(worker, prompt)
    assert type(error) is kind
    assert words in error.message
    assert "".join(event.tokens.text for event in events) in "one two three"
    assert [event.sequence for event in events] == list(range(len(events)))
    assert (await worker.events(start("hello")))[-1].finished  # nobody else has a part in it


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (404, BackendFailed),
        (429, Overloaded),
        (500, BackendFailed),
        (503, Overloaded),
    ],
)
async def test_a_refusal(worker: Worker, status: int, kind: type[LiteLLMError]) -> None:
    events, error = await failure(worker, str(status))
    assert not events
    assert type(error) is kind
    assert f"this is a {status}" in error.message


async def test_a_client_that_vanishes_ends_the_servers_work(worker: Worker) -> None:
    before = await seen(worker)

    async def all_is_over() -> bool:
        running = (await worker.status()).residencies[0].running_requests
        return (await seen(worker))["left"] > before["left"] and not running

    call = worker.stub.Generate(iter([wire.GenerateRequest(start=start("endless"))]))
    await asyncio.wait_for(call.read(), WAIT)
    assert (await worker.status()).residencies[0].running_requests == 1
    call.cancel()
    await until(all_is_over)


async def test_a_slow_reader_slows_its_own_stream_alone(worker: Worker) -> None:
    slow = worker.stub.Generate(iter([wire.GenerateRequest(start=start("endless"))]))
    await asyncio.wait_for(slow.read(), WAIT)
    quick = [worker.events(start("hello")) for _ in range(20)]
    answers = await asyncio.wait_for(asyncio.gather(*quick), WAIT)
    assert all(answer[-1].finished.reason == wire.FINISH_REASON_STOP for answer in answers)
    slow.cancel()


async def test_before_a_load_there_is_no_model(open_worker: OpenWorker) -> None:
    async with open_worker() as worker:
        with pytest.raises(NoAgent):
            await worker.events(start("hello"))
        assert (await worker.status()).residencies[0].state == model_pb2.MODEL_STATE_INIT


async def test_a_worker_holds_one_model(worker: Worker, checkpoint: Path) -> None:
    with pytest.raises(InvalidRequest, match="holds"):
        await worker.load("vllm", checkpoint)


async def test_a_slow_start_is_waited_for(
    open_worker: OpenWorker, stand_ins: None, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "slow")
    async with open_worker() as worker:
        steps = await worker.load("vllm", checkpoint)
    assert steps[-1].state == model_pb2.MODEL_STATE_ACTIVE
    reading = [step for step in steps if step.phase == wire.LOAD_PHASE_READ]
    assert [step.phase_seconds for step in reading] == sorted(s.phase_seconds for s in reading)
    assert reading[-1].done_bytes == reading[-1].total_bytes == 1000


async def test_a_start_that_never_ends_is_given_up(
    open_worker: OpenWorker, stand_ins: None, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "never")
    async with open_worker(start_seconds=0.2) as worker:
        with pytest.raises(DeadlineExceeded, match="not ready after"):
            await worker.load("vllm", checkpoint)


async def test_a_load_that_is_given_up_leaves_no_server(
    open_worker: OpenWorker, stand_ins: None, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "never")
    before = set(psutil.Process().children(recursive=True))

    def started() -> set[psutil.Process]:
        return set(psutil.Process().children(recursive=True)) - before

    async with open_worker() as worker:
        call = worker.stub.Load(load_request("vllm", checkpoint))
        while not started():
            await asyncio.wait_for(call.read(), WAIT)
        call.cancel()

        async def is_alone() -> bool:
            return not started()

        await until(is_alone)


async def test_a_start_that_fails_can_be_tried_again(
    open_worker: OpenWorker, stand_ins: None, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_worker() as worker:
        monkeypatch.setenv("STAND_IN", "crash")
        with pytest.raises(WorkerCrashed, match="ended with status 1"):
            await worker.load("vllm", checkpoint)
        with pytest.raises(Unsupported, match="native, llamacpp, vllm, tokasaurus"):
            await worker.load("vlm", checkpoint)
        with pytest.raises(InvalidRequest, match="small, medium, large"):
            await worker.load("vllm", checkpoint, profile="huge")
        with monkeypatch.context() as patch:
            patch.setenv("PATH", "/nowhere")
            with pytest.raises(InvalidSettings, match="not on PATH"):
                await worker.load("vllm", checkpoint)
        monkeypatch.delenv("STAND_IN")
        assert (await worker.load("vllm", checkpoint))[-1].state == model_pb2.MODEL_STATE_ACTIVE


async def test_a_server_that_dies_takes_its_streams_and_its_worker_along(
    open_worker: OpenWorker, stand_ins: None, checkpoint: Path
) -> None:
    async with open_worker() as worker:
        await worker.load("vllm", checkpoint)
        events, error = await failure(worker, "die")
        assert isinstance(error, AgentLost)  # which an agent takes for: see how the worker ended
        assert "".join(event.tokens.text for event in events) == "one two three"
        crash = await asyncio.wait_for(worker.service.crash, WAIT)
        assert "ended by SIGSEGV" in crash.message


async def test_a_server_that_hangs_shows_in_the_pulse(
    open_worker: OpenWorker,
    stand_ins: None,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lite_llm.backends.foreign_model.WATCH_SECONDS", 0.05)
    async with open_worker() as worker:
        await worker.load("vllm", checkpoint)

        async def answers() -> bool:
            return (await worker.status()).pulse.steps > 2

        async def hangs() -> bool:
            return (await worker.status()).pulse.stepping

        await until(answers)
        await worker.events(start("hang"))
        await until(hangs)
        pulse = (await worker.status()).pulse
        await asyncio.sleep(0.3)
        assert (await worker.status()).pulse == pulse


async def test_a_server_with_tcp_and_whole_answers(
    open_worker: OpenWorker, stand_ins: None, checkpoint: Path
) -> None:
    async with open_worker() as worker:
        await worker.load("tokasaurus", checkpoint)
        first, tokens, last = await worker.events(start("hello"))
        assert first.started.prompt_tokens == 0  # it tells them at the end only
        assert (tokens.tokens.text, list(tokens.tokens.token_ids)) == ("one two three", [7, 8, 9])
        assert last.finished.usage == wire.Usage(prompt_tokens=4, completion_tokens=3)
        assert "vllm:" in (await worker.stub.Metrics(agent_pb2.MetricsRequest())).text
