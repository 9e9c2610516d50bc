"""The store says what the agent is and holds, as long as the agent lives and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from lite_llm.agent import AgentSettings
from lite_llm.agent.changes import Changes
from lite_llm.agent.declared import Declared
from lite_llm.agent.house import opened
from lite_llm.agent.models import hosting
from lite_llm.agent.node import Node as HostNode
from lite_llm.agent.peers import alone
from lite_llm.agent.registration import Registration, registered
from lite_llm.agent.reports import Reporter
from lite_llm.agent.state_directory import claimed
from lite_llm.contracts import Medium, ModelRef
from lite_llm.contracts.errors import OutOfMemory
from lite_llm.contracts.keyspace import AgentKey, ResidencyKey, key_of
from lite_llm.metastore import (
    Entry,
    MemoryStore,
    Snapshot,
    Store,
    Written,
    open_store,
)
from lite_llm.proto.v1 import agent_pb2, model_pb2
from lite_llm.telemetry import Metrics, Program, names
from lite_llm.testing.etcd import EtcdServer, etcd_server
from lite_llm.wire import loads, ref_to_proto

WAIT = 30.0  # seconds; for the machine's worst day
NODE = "node-1"
AGENT_KEY = key_of(AgentKey(NODE))
TINY = ModelRef("default", "tiny")
MODEL_KEY = key_of(ResidencyKey(TINY, NODE))


class Node:
    """An agent's models and what it says of itself, without its server.

    It has no memory, so that every load fails at once.
    """

    def __init__(self, state: Path) -> None:
        self.settings = AgentSettings(
            state_directory=state,
            node=NODE,
            heartbeat_seconds=0.3,
            lease_seconds=1.0,
            zone="z",
            memory_bytes=0,
            prefork=False,
            cache_bytes=1 << 20,
        )
        self.changes = Changes()

    @asynccontextmanager
    async def registered(self, store: Store) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            house, disks = await stack.enter_async_context(
                opened(
                    self.settings,
                    stack.enter_context(claimed(self.settings.state_directory)),
                    self.changes,
                    Metrics(names.exported_by(Program.AGENT)),
                    Declared(store),
                    alone,
                )
            )
            self.models = await stack.enter_async_context(hosting(house, self.changes))
            self.reporter = Reporter(
                self.settings,
                HostNode(devices=()),
                self.models,
                memory=house.memory,
                warmth=house.warmth,
                disks=disks,
                disk_bytes={Medium.NVME: 1 << 20},
            )
            registration = Registration(store, self.settings, self.reporter, self.changes)
            async with registered(registration):
                yield

    async def hold(self, source: Path) -> None:
        """A model whose load fails."""
        spec = model_pb2.ModelSpec(ref=ref_to_proto(TINY), generation=7)
        spec.source.uri = str(source)
        with pytest.raises(OutOfMemory, match="do not fit"):
            async for _ in self.models.load(spec).follow(lambda: False):
                pass


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "state")


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    with etcd_server() as server:
        yield server


@dataclass(frozen=True)
class Backend:
    store: Store
    wipe: Callable[[], None]


@pytest.fixture(params=["memory", "etcd"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    if request.param == "memory":
        memory = MemoryStore()
        yield Backend(memory, memory.wipe)
        memory.close()
        return
    server: EtcdServer = request.getfixturevalue("etcd")
    async with open_store(server.settings()) as store:
        yield Backend(store, server.wipe)


async def status_when(
    store: Store, wanted: Callable[[agent_pb2.AgentStatus], bool]
) -> agent_pb2.AgentStatus:
    """The agent's stored status once it is as wanted."""
    async with asyncio.timeout(WAIT), store.watch(AGENT_KEY) as events:
        async for event in events:
            match event:
                case Snapshot(entries=[Entry(value=value), *_]) | Written(Entry(value=value)):
                    status = loads(value, agent_pb2.AgentStatus, where=AGENT_KEY)
                    if wanted(status):
                        return status
    raise AssertionError("the watch ended")


async def model_when(
    store: Store, wanted: Callable[[agent_pb2.Residency | None], bool]
) -> agent_pb2.Residency | None:
    """The model's stored residency, or None for its absence, once it is as wanted."""
    async with asyncio.timeout(WAIT), store.watch(MODEL_KEY) as events:
        async for event in events:
            held = None
            match event:
                case Snapshot(entries=[Entry(value=value), *_]) | Written(Entry(value=value)):
                    held = loads(value, agent_pb2.Residency, where=MODEL_KEY)
            if wanted(held):
                return held
    raise AssertionError("the watch ended")


def is_recovering(held: agent_pb2.Residency | None) -> bool:
    return held is not None and held.state == model_pb2.MODEL_STATE_RECOVERING


def is_absent(held: agent_pb2.Residency | None) -> bool:
    return held is None


async def test_a_second_agent_of_the_same_name_waits_and_says_so(
    backend: Backend, node: Node, tmp_path: Path
) -> None:
    twin = Node(tmp_path / "twin")
    store = backend.store
    async with AsyncExitStack() as first:
        await first.enter_async_context(node.registered(store))
        registered_as = (await status_when(store, lambda status: True)).incarnation
        async with twin.registered(store):
            async with asyncio.timeout(WAIT):
                while "another agent is registered as node-1" not in twin.reporter.trouble:
                    await twin.changes.beyond(twin.changes.version)
            still = await status_when(store, lambda status: status.heartbeat > 2)
            assert still.incarnation == registered_as
            await first.aclose()
            await status_when(store, lambda status: status.incarnation != registered_as)


async def test_an_agent_is_in_the_store_while_it_runs(backend: Backend, node: Node) -> None:
    store = backend.store
    async with node.registered(store):
        first = await status_when(store, lambda status: True)
        assert (first.node, first.zone, first.health.healthy) == (NODE, "z", True)
        later = await status_when(store, lambda status: status.heartbeat > first.heartbeat + 1)
        assert later.incarnation == first.incarnation
    assert await store.get(AGENT_KEY) is None


async def test_models_come_and_go_in_the_store(
    backend: Backend, node: Node, tmp_path: Path
) -> None:
    store = backend.store
    async with node.registered(store):
        await node.hold(tmp_path)
        held = await model_when(store, is_recovering)
        assert held is not None
        assert "do not fit into 0 B" in held.reason
        assert held.observed_generation == 7
        await node.models.unload(TINY, 0)
        await model_when(store, is_absent)
        await node.hold(tmp_path)
        await model_when(store, is_recovering)
    assert await store.get(MODEL_KEY) is None


async def test_an_agent_whose_store_was_wiped_registers_again(
    backend: Backend, node: Node, tmp_path: Path
) -> None:
    store = backend.store
    async with node.registered(store):
        await node.hold(tmp_path)
        before = await status_when(store, lambda status: True)
        await asyncio.to_thread(backend.wipe)
        after = await status_when(store, lambda status: status.heartbeat > before.heartbeat + 1)
        assert after.health.healthy, "what is over must not keep requests away"
        await model_when(store, is_recovering)


async def test_an_agent_without_its_store_says_so_and_comes_back(
    etcd: EtcdServer, node: Node
) -> None:
    async with open_store(etcd.settings()) as store, node.registered(store):
        before = await status_when(store, lambda status: True)
        await asyncio.to_thread(etcd.kill)
        async with asyncio.timeout(WAIT):
            while not node.reporter.trouble:
                await node.changes.beyond(node.changes.version)
        assert not node.reporter.report().status.health.healthy
        await asyncio.to_thread(etcd.start)
        after = await status_when(store, lambda status: status.heartbeat > before.heartbeat + 1)
        assert after.incarnation == before.incarnation
