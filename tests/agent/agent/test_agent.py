"""An agent over real gRPC, its models in real worker processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import psutil
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lite_llm.agent import AgentSettings, running
from lite_llm.contracts import LiteLLMError, ModelRef, outcome_of
from lite_llm.contracts.errors import (
    AgentLost,
    Cancelled,
    Corrupt,
    InvalidRequest,
    ModelNotFound,
    NoAgent,
    Unsupported,
    WorkerCrashed,
)
from lite_llm.contracts.keyspace import AgentKey, ResidencyKey, key_of
from lite_llm.metastore import Store, StoreSettings, open_store
from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.testing.checkpoints import Shape, tiny_llama
from lite_llm.wire import Line, Refused, error_from, open_channel

if TYPE_CHECKING:
    from lite_llm.proto.v1.agent_pb2_grpc import AgentAsyncStub

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT = 60.0  # seconds; for the machine's worst day
LONG = 15_000  # tokens; minutes of work
NODE = "node-1"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("checkpoint"), seed=5, shape=Shape(context=20_000))


@asynccontextmanager
async def agent_in(state: Path, store: Store) -> AsyncIterator[grpc.aio.Channel]:
    settings = AgentSettings(
        state_directory=state,
        node=NODE,
        worker_threads=1,
        prefork=True,
        heartbeat_seconds=0.5,
        hang_seconds=10.0,
    )
    async with running(settings, store) as agent, open_channel(agent.grpc_address) as channel:
        yield channel


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[AgentAsyncStub]:
    """Holds the model ``tiny``."""
    state = tmp_path_factory.mktemp("agent")
    async with open_store(StoreSettings()) as store, agent_in(state, store) as channel:
        stub: AgentAsyncStub = AgentStub(channel)
        await a_load_tells_its_progress_and_a_repeated_one_joins(stub, checkpoint.as_uri())
        yield stub
    assert children() == []


async def a_load_tells_its_progress_and_a_repeated_one_joins(
    agent: AgentAsyncStub, uri: str
) -> None:
    for steps in await asyncio.gather(load(agent, "tiny", uri), load(agent, "tiny", uri)):
        assert [step.phase for step in steps] == sorted(step.phase for step in steps)
        assert steps[0].message.startswith("cold: ")
        last = steps[-1]
        assert (last.state, last.message) == (model_pb2.MODEL_STATE_ACTIVE, "serving")
        assert last.done_bytes == last.total_bytes > 0
        assert last.remaining_seconds == 0
    assert len(children()) == 1


def children() -> list[psutil.Process]:
    """Workers, which are forked from a process that is none."""
    return [
        worker
        for child in psutil.Process().children()
        if "lite_llm.backends.prefork" in child.cmdline()
        for worker in child.children()
    ]


def ref(name: str) -> model_pb2.ModelRef:
    return model_pb2.ModelRef(namespace="default", name=name)


def load_request(name: str, uri: str) -> agent_pb2.LoadRequest:
    source = model_pb2.ModelSource(uri=uri)
    return agent_pb2.LoadRequest(spec=model_pb2.ModelSpec(ref=ref(name), source=source))


async def load(agent: AgentAsyncStub, name: str, uri: str) -> list[generate_pb2.LoadProgress]:
    return [progress async for progress in agent.Load(load_request(name, uri))]


def start(name: str, max_tokens: int) -> generate_pb2.GenerateRequest:
    sampling = generate_pb2.SamplingParameters(max_tokens=max_tokens, ignore_eos=True)
    message = generate_pb2.GenerateStart(
        request_id="r", model=ref(name), text="the same", sampling=sampling
    )
    return generate_pb2.GenerateRequest(start=message)


async def answer(
    agent: AgentAsyncStub, name: str, max_tokens: int
) -> list[generate_pb2.GenerateEvent]:
    return [event async for event in agent.Generate(iter([start(name, max_tokens)]))]


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


async def failure(call: Any) -> LiteLLMError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return error_from(raised.value, where="agent")


async def residencies(agent: AgentAsyncStub) -> dict[str, agent_pb2.Residency]:
    told = (await agent.Status(agent_pb2.AgentStatusRequest())).residencies
    return {residency.model.name: residency for residency in told}


async def wait_for(agent: AgentAsyncStub, name: str, **expected: int) -> agent_pb2.Residency:
    """Until the residency of ``name`` has the expected fields."""
    async with asyncio.timeout(WAIT):
        async for report in agent.Watch(agent_pb2.AgentStatusRequest()):
            for held in report.residencies:
                if held.model.name == name and all(
                    getattr(held, field) == value for field, value in expected.items()
                ):
                    return held
    raise AssertionError("the watch ended")


async def test_a_load_of_what_is_there(agent: AgentAsyncStub, checkpoint: Path) -> None:
    (progress,) = await load(agent, "tiny", checkpoint.as_uri())
    assert progress.state == model_pb2.MODEL_STATE_ACTIVE
    elsewhere = await failure(load(agent, "tiny", str(checkpoint.parent)))
    assert isinstance(elsewhere, InvalidRequest)


async def test_an_answer(agent: AgentAsyncStub) -> None:
    events = await answer(agent, "tiny", 20)
    assert [event.sequence for event in events] == list(range(22))
    assert events[0].started.node == NODE
    assert events[-1].finished.usage.completion_tokens == 20
    again = await answer(agent, "tiny", 20)
    assert [event.tokens for event in again] == [event.tokens for event in events]


async def test_the_report(agent: AgentAsyncStub) -> None:
    report = await agent.Status(agent_pb2.AgentStatusRequest())
    assert report.status.node == NODE
    assert report.status.health.healthy
    assert report.status.devices[0].capability == "cpu"
    assert report.status.incarnation
    (held,) = report.residencies
    assert held.state == model_pb2.MODEL_STATE_ACTIVE
    assert held.nearest == model_pb2.MEDIUM_GPU
    assert held.context_tokens == 20_000
    assert held.last_cold_start.path == "cold"
    assert all(phase.seconds > 0 for phase in held.last_cold_start.phases)
    assert abs(time.time() - held.started_at) < 600
    assert held.failure == ""
    assert len(held.checkpoint_digest) == 64  # another directory under the same name is noticed
    dram, disk = report.status.media
    assert 0 < held.tiers[0].bytes < dram.used_bytes <= dram.capacity_bytes
    assert disk.capacity_bytes > 0
    assert disk.read_bytes_per_second > 0


async def test_a_model_without_experts_has_a_map_without_layers(agent: AgentAsyncStub) -> None:
    told = await agent.Experts(agent_pb2.ExpertMapRequest(model=ref("tiny")))
    assert told == agent_pb2.ExpertMap(model=ref("tiny"), node=NODE)
    unknown = agent.Experts(agent_pb2.ExpertMapRequest(model=ref("unknown")))
    assert isinstance(await failure(unknown), ModelNotFound)


async def test_a_model_that_generates_makes_no_embeddings(agent: AgentAsyncStub) -> None:
    refused = await failure(agent.Embed(generate_pb2.EmbedRequest(model=ref("tiny"))))
    assert isinstance(refused, Unsupported)


async def test_many_generations_on_one_call_are_those_of_calls_of_their_own(
    agent: AgentAsyncStub,
) -> None:
    expected = [event.SerializeToString() for event in await tokens(agent.Generate, 20)]
    line = Line(agent)
    try:

        async def one() -> list[bytes]:
            with line.generation(start("tiny", 20)) as generation:
                events = [event async for events in generation for event in events]
            assert events[0].started.node == NODE
            return [event.tokens.SerializeToString() for event in events[1:-1]]

        assert await asyncio.gather(*(one() for _ in range(8))) == [expected] * 8
        with (
            line.generation(start("unknown", 20)) as generation,
            pytest.raises(Refused, match="not on this agent"),
        ):
            _ = [events async for events in generation]
    finally:
        line.close()


async def tokens(generate: Any, count: int) -> list[generate_pb2.TokenChunk]:
    events = [event async for event in generate(iter([start("tiny", count)]))]
    return [event.tokens for event in events[1:-1]]


async def test_waiting_requests_are_counted(agent: AgentAsyncStub) -> None:
    # As many sequences as run at once, so that nothing else can.
    full = start("tiny", LONG)
    full.start.sampling.n = 64
    calls = [agent.Generate(iter([full]))]
    for _ in range(2):  # the begin, and a token: all its sequences run
        await read(calls[0])
    calls += [agent.Generate(iter([start("tiny", LONG)])) for _ in range(2)]
    held = await wait_for(agent, "tiny", running_requests=1, waiting_requests=2)
    assert held.state == model_pb2.MODEL_STATE_ACTIVE
    for call in calls:
        call.cancel()
    await wait_for(agent, "tiny", running_requests=0, waiting_requests=0)


async def test_cancel_takes_effect_within_a_second(agent: AgentAsyncStub) -> None:
    call = agent.Generate()
    await call.write(start("tiny", LONG))
    received = [await read(call) for _ in range(5)]
    cancel = generate_pb2.GenerateCancel(reason="enough")
    began = time.monotonic()
    await call.write(generate_pb2.GenerateRequest(cancel=cancel))
    received += await rest(call)
    assert received[-1].finished.reason == generate_pb2.FINISH_REASON_CANCELLED
    assert time.monotonic() - began < 1.0 + WAIT / 10  # a second, and a busy machine's slack
    await wait_for(agent, "tiny", running_requests=0, waiting_requests=0)


async def test_a_client_that_vanishes_has_cancelled(agent: AgentAsyncStub) -> None:
    call = agent.Generate(iter([start("tiny", LONG)]))
    await read(call)
    call.cancel()
    await wait_for(agent, "tiny", running_requests=0, waiting_requests=0)
    assert len(await answer(agent, "tiny", 3)) == 5


async def test_a_slow_reader_slows_down_nobody_else(agent: AgentAsyncStub) -> None:
    slow = agent.Generate(iter([start("tiny", 500)]))
    await read(slow)
    assert len(await asyncio.wait_for(answer(agent, "tiny", 3), WAIT)) == 5
    assert len(await rest(slow)) == 501


async def test_faults_are_named(agent: AgentAsyncStub, checkpoint: Path, tmp_path: Path) -> None:
    assert isinstance(await failure(answer(agent, "unknown", 3)), ModelNotFound)
    too_many = await failure(answer(agent, "tiny", 20_001))
    assert (type(too_many), too_many.where) == (InvalidRequest, "max_tokens")
    assert isinstance(await failure(load(agent, "s3", "s3:///x")), InvalidRequest)
    assert isinstance(await failure(load(agent, "ftp", "ftp://host/x")), Unsupported)
    assert isinstance(await failure(load(agent, "absent", str(tmp_path / "x"))), ModelNotFound)
    unknown = agent.Unload(agent_pb2.UnloadRequest(model=ref("unknown")))
    assert isinstance(await failure(unknown), ModelNotFound)
    assert set(await residencies(agent)) == {"tiny"}


async def test_a_corrupt_checkpoint_is_told_and_can_be_replaced(
    agent: AgentAsyncStub, tmp_path: Path
) -> None:
    weights = tiny_llama(tmp_path, seed=1) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    error = await failure(load(agent, "mended", str(tmp_path)))
    assert isinstance(error, Corrupt)
    held = (await residencies(agent))["mended"]
    assert held.state == model_pb2.MODEL_STATE_RECOVERING
    assert "model.safetensors" in held.reason
    assert held.failure == outcome_of(error).reason
    assert isinstance(await failure(answer(agent, "mended", 3)), NoAgent)
    weights.write_bytes(whole)
    assert (await load(agent, "mended", str(tmp_path)))[-1].message == "serving"
    assert len(await answer(agent, "mended", 3)) == 5
    await agent.Unload(agent_pb2.UnloadRequest(model=ref("mended")))
    assert set(await residencies(agent)) == {"tiny"}
    assert len(children()) == 1


async def test_a_load_that_is_withdrawn(agent: AgentAsyncStub, checkpoint: Path) -> None:
    following = asyncio.create_task(failure(load(agent, "withdrawn", str(checkpoint))))
    await wait_for(agent, "withdrawn", state=model_pb2.MODEL_STATE_INIT)
    await agent.Unload(agent_pb2.UnloadRequest(model=ref("withdrawn")))
    assert isinstance(await following, Cancelled)
    assert len(children()) == 1


@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGKILL, "was ended by SIGKILL"), (signal.SIGSTOP, "answer")],
    ids=["killed", "hung"],
)
async def test_a_worker_that_dies_or_hangs_is_told_to_its_streams_and_replaced(
    agent: AgentAsyncStub, number: signal.Signals, reason: str
) -> None:
    expected = [event.tokens for event in await answer(agent, "tiny", 10)]
    call = agent.Generate(iter([start("tiny", LONG)]))
    for _ in range(5):
        await read(call)
    (worker,) = children()
    recovering = asyncio.create_task(
        wait_for(agent, "tiny", state=model_pb2.MODEL_STATE_RECOVERING)
    )
    os.kill(worker.pid, number)
    error = await failure(rest(call))
    assert isinstance(error, WorkerCrashed)
    assert reason in error.message
    held = await recovering
    assert reason in held.reason
    assert held.nearest == model_pb2.MEDIUM_NVME
    assert isinstance(await failure(answer(agent, "tiny", 3)), NoAgent)
    await wait_for(agent, "tiny", state=model_pb2.MODEL_STATE_ACTIVE)
    assert [event.tokens for event in await answer(agent, "tiny", 10)] == expected


async def test_a_model_sleeps_and_a_request_wakes_it(agent: AgentAsyncStub) -> None:
    expected = [event.tokens for event in await answer(agent, "tiny", 10)]
    call = agent.Generate(iter([start("tiny", 300)]))
    await read(call)
    asleep = asyncio.create_task(
        wait_for(agent, "tiny", state=model_pb2.MODEL_STATE_WARM, nearest=model_pb2.MEDIUM_DRAM)
    )
    async for _ in agent.Sleep(agent_pb2.SleepRequest(model=ref("tiny"))):
        pass
    assert len(await rest(call)) == 301  # what ran was finished first
    assert (await asyncio.wait_for(asleep, WAIT)).reason == "warm: asleep in memory"
    assert children() == []
    assert [event.tokens for event in await answer(agent, "tiny", 10)] == expected
    async for _ in agent.Sleep(agent_pb2.SleepRequest(model=ref("tiny"))):
        pass
    woken = [step async for step in agent.Wake(agent_pb2.WakeRequest(model=ref("tiny")))]
    assert woken[-1].message == "serving"


async def test_drain_hands_over_what_does_not_end_and_the_end_leaves_nothing(
    checkpoint: Path, tmp_path: Path
) -> None:
    key = key_of(ResidencyKey(ModelRef("default", "tiny"), NODE))
    before = set(children())
    async with open_store(StoreSettings()) as store:
        async with agent_in(tmp_path, store) as channel:
            agent: AgentAsyncStub = AgentStub(channel)
            await load(agent, "tiny", str(checkpoint))
            call = agent.Generate(iter([start("tiny", LONG)]))
            await read(call)
            draining = agent.Drain(agent_pb2.DrainRequest(grace_seconds=0.3))
            await wait_for(agent, "tiny", state=model_pb2.MODEL_STATE_FROZEN)
            health = health_pb2_grpc.HealthStub(channel)
            told = await health.Check(health_pb2.HealthCheckRequest())
            assert told.status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert isinstance(await failure(answer(agent, "tiny", 3)), NoAgent)
            assert isinstance(await failure(load(agent, "other", str(checkpoint))), NoAgent)
            assert isinstance(await failure(rest(call)), AgentLost)
            assert (await draining).handed_over == 1
            assert (await agent.Status(agent_pb2.AgentStatusRequest())).status.draining
        assert await store.get(key) is None
        assert await store.get(key_of(AgentKey(NODE))) is None
    assert set(children()) == before
    assert list((tmp_path / "run").iterdir()) == []
