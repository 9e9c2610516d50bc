"""Models come to more agents and leave them, decided by one leader after another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import LEADERS, ModelKey, ScalingKey, key_of
from lite_llm.metastore import Store
from lite_llm.orchestrator import Orchestrator, OrchestratorSettings, running
from lite_llm.proto.v1.model_pb2 import ModelSource, ModelSpec, Scaling
from lite_llm.proto.v1.orchestrator_pb2 import PinRequest, ScalingState
from lite_llm.proto.v1.orchestrator_pb2_grpc import OrchestratorStub
from lite_llm.testing.stub_agent import StubAgent, stub_agent
from lite_llm.wire import dumps, loads, open_channel, ref_to_proto

MODEL = ModelRef("default", "tiny")


@pytest.fixture
def settings(settings: OrchestratorSettings) -> OrchestratorSettings:
    return replace(settings, scaling_seconds=0.05, claim_seconds=1.0)


async def declare(store: Store, **scaling: Any) -> None:
    spec = ModelSpec(
        ref=ref_to_proto(MODEL), source=ModelSource(uri="file:///m"), scaling=Scaling(**scaling)
    )
    await store.put(key_of(ModelKey(MODEL)), dumps(spec))


async def state(store: Store) -> ScalingState:
    entry = await store.get(key_of(ScalingKey(MODEL)))
    assert entry is not None
    return loads(entry.value, ScalingState, where=entry.key)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - of a stub
            await asyncio.sleep(0.02)


async def ask(door: Orchestrator) -> int:
    body = {"model": "tiny", "prompt": "x"}
    async with (
        aiohttp.ClientSession(f"http://{door.http_address}") as http,
        http.post("/v1/completions", json=body) as response,
    ):
        return response.status


@asynccontextmanager
async def pinned(door: Orchestrator, node: str) -> AsyncIterator[None]:
    async with open_channel(door.grpc_address) as channel:
        pin = PinRequest(model=ref_to_proto(MODEL), node=node, pinned=True)
        await OrchestratorStub(channel).Pin(pin)
        yield
        pin.pinned = False
        await OrchestratorStub(channel).Pin(pin)


async def test_an_idle_model_leaves_and_comes_back_when_it_is_asked_for(
    store: Store, agent: StubAgent, orchestrator: Orchestrator
) -> None:
    await declare(store, idle_seconds=1)
    assert await ask(orchestrator) == 200
    await until(lambda: len(agent.unloads) == 1)
    assert "idle" in (await state(store)).reason
    assert await ask(orchestrator) == 200
    assert len(agent.loads) == 2


async def test_a_model_that_is_used_stays(
    store: Store, agent: StubAgent, orchestrator: Orchestrator
) -> None:
    await declare(store, idle_seconds=2)
    for _ in range(10):
        assert await ask(orchestrator) == 200
        await asyncio.sleep(0.3)
    assert agent.unloads == []


async def test_a_queue_brings_the_model_to_another_agent(
    store: Store, agent: StubAgent, orchestrator: Orchestrator
) -> None:
    await declare(store, max_replicas=2)
    async with stub_agent(store, "other") as other:
        await agent.hold(ref_to_proto(MODEL), waiting_requests=9)
        await until(lambda: len(other.loads) == 1)
        await asyncio.sleep(0.3)
        assert len(other.loads) == 1
    assert "9 requests wait" in (await state(store)).reason


async def test_there_are_at_least_so_many_and_pins_are_kept(
    store: Store, agent: StubAgent, orchestrator: Orchestrator
) -> None:
    await declare(store, min_replicas=2, max_replicas=2)
    async with stub_agent(store, "other") as other:
        await until(lambda: bool(agent.loads and other.loads))
        async with pinned(orchestrator, "other"):
            await declare(store, min_replicas=0, max_replicas=1)
            await until(lambda: len(agent.unloads) == 1)
        assert other.unloads == []


async def test_a_malformed_state_of_one_model_stops_no_other(
    store: Store, agent: StubAgent, orchestrator: Orchestrator
) -> None:
    broken = ModelRef("default", "broken")
    spec = ModelSpec(ref=ref_to_proto(broken), scaling=Scaling(idle_seconds=3600))
    await store.put(key_of(ScalingKey(broken)), b"\xff")
    await store.put(key_of(ModelKey(broken)), dumps(spec))
    await declare(store, min_replicas=1)
    await until(lambda: bool(agent.loads))


async def test_another_leader_goes_on_where_the_first_one_was(
    settings: OrchestratorSettings, store: Store, agent: StubAgent, orchestrator: Orchestrator
) -> None:
    await declare(store, idle_seconds=3600)
    assert await ask(orchestrator) == 200
    await asyncio.sleep(0.3)
    used_at = (await state(store)).used_at
    async with running(settings, store):
        (leader,) = (await store.list_prefix(LEADERS + "autoscaler")).entries
        await store.delete(leader.key)  # as when its lease ends
        async with asyncio.timeout(20):
            while (  # noqa: ASYNC110 - nobody tells
                not (found := (await store.list_prefix(LEADERS + "autoscaler")).entries)
                or found[0].create_revision == leader.create_revision
            ):
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        assert (await state(store)).used_at == used_at
        assert agent.unloads == []
