"""A model of a foreign server through the daemon: llama.cpp's own, on a GGUF file made here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import psutil
import pytest
from tests.agent.backends.gguf_file import write_gguf

from lite_llm.agent import AgentSettings, running
from lite_llm.contracts.errors import AgentLost, NoAgent, Unsupported, WorkerCrashed
from lite_llm.metastore import StoreSettings, open_store
from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.testing.checkpoints import Shape, tiny_llama
from lite_llm.wire import error_from, open_channel

if TYPE_CHECKING:
    from lite_llm.proto.v1.agent_pb2_grpc import AgentAsyncStub

WAIT = 120.0  # seconds; for the machine's worst day
SHAPE = Shape(context=4096)
SCHEMA = (
    '{"type":"object","properties":{"a":{"type":"boolean"}},'
    '"required":["a"],"additionalProperties":false}'
)
MODEL = model_pb2.ModelRef(namespace="default", name="tiny")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gguf")
    checkpoint = tiny_llama(root / "checkpoint", seed=5, shape=SHAPE)
    return write_gguf(checkpoint, root / "tiny.gguf", seed=5, shape=SHAPE)


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[AgentAsyncStub]:
    settings = AgentSettings(
        state_directory=tmp_path / "s",
        node="node-1",
        worker_threads=1,
        kv_bytes=1 << 20,
        prefork=False,
        heartbeat_seconds=0.3,
    )
    others = set(psutil.Process().children(recursive=True))  # of tests that share the process
    async with AsyncExitStack() as opened:
        store = await opened.enter_async_context(open_store(StoreSettings()))
        agent = await opened.enter_async_context(running(settings, store))
        channel = await opened.enter_async_context(open_channel(agent.grpc_address))
        yield AgentStub(channel)
    assert set(psutil.Process().children(recursive=True)) <= others


async def load(agent: AgentAsyncStub, gguf: Path) -> list[generate_pb2.LoadProgress]:
    spec = model_pb2.ModelSpec(ref=MODEL, backend="llamacpp", profile="small")
    spec.source.uri = str(gguf)
    return [step async for step in agent.Load(agent_pb2.LoadRequest(spec=spec))]


def start(max_tokens: int, schema: str | None = None) -> generate_pb2.GenerateRequest:
    asked = generate_pb2.SamplingParameters(
        max_tokens=max_tokens, temperature=0.0, json_schema=schema
    )
    return generate_pb2.GenerateRequest(
        start=generate_pb2.GenerateStart(
            request_id="r", model=MODEL, text="the quick brown fox", sampling=asked
        )
    )


async def text(agent: AgentAsyncStub, request: generate_pb2.GenerateRequest) -> str:
    events = [event async for event in agent.Generate(iter([request]))]
    assert events[0].started.node == "node-1"
    assert events[-1].HasField("finished")
    return "".join(event.tokens.text for event in events)


async def test_it_serves_sleeps_wakes_and_gets_over_the_death_of_its_server(
    agent: AgentAsyncStub, gguf: Path
) -> None:
    others = set(psutil.Process().children(recursive=True))  # of tests that share the process
    async with asyncio.timeout(WAIT):
        steps = await load(agent, gguf)
        assert steps[-1].state == model_pb2.MODEL_STATE_ACTIVE
        expected = await text(agent, start(16))
        assert await asyncio.gather(*(text(agent, start(16)) for _ in range(4))) == [expected] * 4
        told = await agent.Experts(agent_pb2.ExpertMapRequest(model=MODEL))
        assert told.layers == []
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await agent.Embed(generate_pb2.EmbedRequest(model=MODEL))
        assert isinstance(error_from(refusal.value, where="agent"), Unsupported)
        assert isinstance(json.loads(await text(agent, start(40, SCHEMA))), dict)

        async for _ in agent.Sleep(agent_pb2.SleepRequest(model=MODEL)):
            pass
        assert set(psutil.Process().children(recursive=True)) <= others
        assert await text(agent, start(16)) == expected

        server = next(
            process
            for process in psutil.Process().children(recursive=True)
            if "--alias" in process.cmdline() and "tether" not in " ".join(process.cmdline())
        )
        server.kill()
        answered = ""
        while not answered:  # it crashed: for a moment requests are refused, and never hang
            try:
                answered = await text(agent, start(16))
            except grpc.aio.AioRpcError as failure:
                error = error_from(failure, where="agent")
                assert isinstance(error, NoAgent | AgentLost | WorkerCrashed), error
        assert answered == expected
        await agent.Unload(agent_pb2.UnloadRequest(model=MODEL))
        assert set(psutil.Process().children(recursive=True)) <= others
