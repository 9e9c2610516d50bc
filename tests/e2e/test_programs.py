"""Orchestrator and agent as separate processes that meet in a real etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import openai
import pytest

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import ROOT, ModelKey, key_of
from lite_llm.metastore import open_store
from lite_llm.proto.v1.generate_pb2 import (
    FINISH_REASON_LENGTH,
    GenerateEvent,
    GenerateRequest,
    GenerateStart,
    SamplingParameters,
)
from lite_llm.proto.v1.model_pb2 import ModelSource, ModelSpec
from lite_llm.proto.v1.orchestrator_pb2_grpc import OrchestratorStub
from lite_llm.testing.command import Command
from lite_llm.testing.etcd import EtcdServer, etcd_server
from lite_llm.testing.guard import Guard, free_ports, marked_processes
from lite_llm.wire import dumps, open_channel, ref_to_proto

MODEL = ModelRef("team", "tiny")


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    with etcd_server() as server:
        yield server


async def generated(address: str, prompt: str, max_tokens: int) -> AsyncIterator[GenerateEvent]:
    """Over gRPC, greedily."""
    start = GenerateStart(
        request_id="e2e",
        model=ref_to_proto(MODEL),
        text=prompt,
        sampling=SamplingParameters(max_tokens=max_tokens, temperature=0.0),
    )
    async with open_channel(address) as channel:
        call = OrchestratorStub(channel).Generate()
        await call.write(GenerateRequest(start=start))
        async for event in call:
            yield event


async def test_a_declared_model_is_served_until_its_agent_dies(
    guard: Guard,
    etcd: EtcdServer,
    checkpoint: Path,
    expected: Callable[[str, int], tuple[str, list[int]]],
) -> None:
    http, grpc = (f"127.0.0.1:{port}" for port in free_ports(2))
    url = f"http://{etcd.endpoint}"
    agent = Command(guard, "agent", "--etcd", url, "--node", "n1", name="agent")
    door = Command(
        guard, "orchestrator", "--etcd", url, "--listen", http, "--listen-grpc", grpc, name="door"
    )
    door.wait_said("orchestrator ready")
    agent.wait_said("agent registered")
    async with (
        open_store(etcd.settings()) as store,
        openai.AsyncOpenAI(base_url=f"http://{http}/v1", api_key="none", max_retries=0) as client,
    ):
        spec = ModelSpec(ref=ref_to_proto(MODEL), source=ModelSource(uri=checkpoint.as_uri()))
        await store.put(key_of(ModelKey(MODEL)), dumps(spec))

        events = [event async for event in generated(grpc, "the quick brown fox", 24)]
        assert [event.sequence for event in events] == list(range(len(events)))
        assert events[0].HasField("progress"), "the first request waits for the load"
        tokens = [token for event in events for token in event.tokens.token_ids]
        text, wanted = expected("the quick brown fox", 24)
        assert tokens == wanted
        assert "".join(event.tokens.text for event in events) == text
        assert events[-1].finished.reason == FINISH_REASON_LENGTH

        answer = await client.completions.create(
            model="team/tiny", prompt="the quick brown fox", max_tokens=24, temperature=0
        )
        assert answer.choices[0].text == text

        stream = await client.completions.create(
            model="team/tiny", prompt="x", max_tokens=500, temperature=0, stream=True
        )
        await anext(aiter(stream))
        agent.process.kill()
        with pytest.raises(openai.APIError) as caught:
            await drained(stream)
        assert caught.value.code == "agent_lost"

        assert door.terminated() == 0
        entries = (await store.list_prefix(ROOT)).entries
        left = [entry.key for entry in entries if not entry.lease_id]
        assert left == [key_of(ModelKey(MODEL))], "the rest goes with the agent's lease"
    assert "Traceback" not in door.output
    await no_processes(guard)


async def no_processes(guard: Guard) -> None:
    """Workers end by themselves when their agent was killed."""
    async with asyncio.timeout(30):
        while list(marked_processes(guard.mark)):  # noqa: ASYNC110 - nobody tells of an orphan's end
            await asyncio.sleep(0.05)


async def drained(stream: AsyncIterator[object]) -> None:
    async for _ in stream:
        pass
