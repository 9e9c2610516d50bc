"""Whoever never reads keeps a model awake for no longer than an agent is patient."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lite_llm.agent import AgentSettings, running
from lite_llm.metastore import StoreSettings, open_store
from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.testing.checkpoints import Shape, tiny_llama
from lite_llm.wire import Line, Refused, open_channel

PATIENCE = 1.0  # seconds
WAIT = 120.0  # seconds; for the machine's worst day


async def test_a_client_that_never_reads_is_taken_away(tmp_path: Path) -> None:
    checkpoint = tiny_llama(tmp_path / "tiny", seed=5, shape=Shape(context=4096))
    settings = AgentSettings(
        state_directory=tmp_path / "state",
        node="node-1",
        worker_threads=1,
        kv_bytes=64 << 20,
        prefork=False,
        patience_seconds=PATIENCE,
    )
    name = model_pb2.ModelRef(namespace="default", name="tiny")
    # More than all windows on the way hold: the engine waits for its reader, and never ends.
    asked = generate_pb2.SamplingParameters(max_tokens=4000, ignore_eos=True, logprobs=100)
    start = generate_pb2.GenerateStart(request_id="r", model=name, text="the same", sampling=asked)
    async with (
        asyncio.timeout(WAIT),
        open_store(StoreSettings()) as store,
        running(settings, store) as agent,
        open_channel(agent.grpc_address) as channel,
    ):
        stub = AgentStub(channel)
        spec = model_pb2.ModelSpec(ref=name)
        spec.source.uri = str(checkpoint)
        async for _ in stub.Load(agent_pb2.LoadRequest(spec=spec)):
            pass
        line = Line(stub)
        with line.generation(generate_pb2.GenerateRequest(start=start)) as generation:
            unread = aiter(generation)
            assert await anext(unread)
            async for _ in stub.Sleep(agent_pb2.SleepRequest(model=name)):
                pass
            with pytest.raises(Refused) as refusal:
                _ = [events async for events in unread]
        assert "nobody read the answer for" in str(refusal.value.detail)
        report = await stub.Status(agent_pb2.AgentStatusRequest())
        assert report.status.running_requests == 0
        line.close()
