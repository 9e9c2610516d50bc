from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

import lite_llm.dispatch.agents
from lite_llm.dispatch import Agents, connecting
from lite_llm.metastore import Store
from lite_llm.placement import ClusterView, Observed
from lite_llm.proto.v1.agent_pb2 import LoadRequest
from lite_llm.proto.v1.model_pb2 import ModelRef, ModelSpec
from lite_llm.testing.stub_agent import StubAgent, stub_agent
from lite_llm.wire import TlsFiles, open_channel

LOAD = LoadRequest(spec=ModelSpec(ref=ModelRef(namespace="default", name="tiny")))


def view_of(*agents: StubAgent) -> ClusterView:
    return ClusterView(1, agents={agent.node: agent.status for agent in agents})


async def load(agents: Agents, agent: StubAgent) -> int:
    with agents.stub(agent.status) as stub:
        return len([step async for step in stub.Load(LOAD)])


@pytest.fixture
def channels(monkeypatch: pytest.MonkeyPatch) -> list[grpc.aio.Channel]:
    """Those that were opened."""
    opened: list[grpc.aio.Channel] = []

    def remembered(address: str, *, tls: TlsFiles | None) -> grpc.aio.Channel:
        opened.append(open_channel(address, tls=tls))
        return opened[-1]

    monkeypatch.setattr(lite_llm.dispatch.agents, "open_channel", remembered)
    return opened


def is_closed(channel: grpc.aio.Channel) -> bool:
    return channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN


async def test_calls_share_a_channel_until_the_agent_is_gone(
    store: Store, channels: list[grpc.aio.Channel]
) -> None:
    async with stub_agent(store) as agent:
        views = Observed(view_of(agent))
        async with connecting(views) as agents:
            assert sum(await asyncio.gather(load(agents, agent), load(agents, agent))) == 2
            assert await load(agents, agent) == 1
            assert len(channels) == 1
            views.set(view_of())
            await asyncio.sleep(0.05)
            assert is_closed(channels[0])


async def test_a_call_outlives_its_agent_s_registration(
    store: Store, channels: list[grpc.aio.Channel]
) -> None:
    async with stub_agent(store) as agent:
        views = Observed(view_of(agent))
        agent.may_load.clear()
        async with connecting(views) as agents:
            loading = asyncio.create_task(load(agents, agent))
            await agent.loading.wait()
            views.set(view_of())
            await asyncio.sleep(0.05)
            agent.may_load.set()
            assert not is_closed(channels[0])
            assert await loading == 1
            await asyncio.sleep(0.05)
            assert is_closed(channels[0])


async def test_an_agent_under_a_new_address_gets_a_new_channel(
    store: Store, channels: list[grpc.aio.Channel]
) -> None:
    async with stub_agent(store) as before:
        views = Observed(view_of(before))
        async with connecting(views) as agents:
            assert await load(agents, before) == 1
            async with stub_agent(store) as after:
                assert await load(agents, after) == 1
                assert len(after.loads) == 1
            await asyncio.sleep(0.05)
            assert [is_closed(channel) for channel in channels] == [True, False]
        assert is_closed(channels[1])
