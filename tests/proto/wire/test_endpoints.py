"""Servers and channels: health, reflection, ports, and what survives a bad day."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.proto.wire.conftest import FAULTY, Peer

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.proto.v1 import agent_pb2, agent_pb2_grpc
from lite_llm.wire import open_channel, serving
from lite_llm.wire.endpoints import MAX_MESSAGE_BYTES

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def chunks(request: agent_pb2.FetchChunksRequest, context: object) -> AsyncIterator[Any]:
    yield agent_pb2.FileChunk(data=bytes(request.length))


def add_agent(server: grpc.aio.Server) -> None:
    """Only as much of an agent as fetching takes."""
    servicer: Any = type("Servicer", (agent_pb2_grpc.AgentServicer,), {})
    servicer.__abstractmethods__ = frozenset()
    servicer.FetchChunks = staticmethod(chunks)
    agent_pb2_grpc.add_AgentServicer_to_server(servicer(), server)


AGENT = {"lite_llm.v1.Agent": add_agent}


async def test_health_flips_for_every_service(peer: Peer) -> None:
    stub = health_pb2_grpc.HealthStub(peer.channel)

    async def statuses() -> set[int]:
        return {
            (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status
            for name in ("", FAULTY)
        }

    assert await statuses() == {NOT_SERVING}
    await peer.endpoint.set_serving(True)
    assert await statuses() == {SERVING}
    await peer.endpoint.set_serving(False)
    assert await statuses() == {NOT_SERVING}


async def test_health_of_a_stranger_is_not_found(peer: Peer) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await health_pb2_grpc.HealthStub(peer.channel).Check(
            health_pb2.HealthCheckRequest(service="stranger")
        )
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_can_be_watched(peer: Peer) -> None:
    watch = health_pb2_grpc.HealthStub(peer.channel).Watch(health_pb2.HealthCheckRequest())
    async with asyncio.timeout(20):
        assert (await watch.read()).status == NOT_SERVING
        await peer.endpoint.set_serving(True)
        assert (await watch.read()).status == SERVING
    watch.cancel()


async def test_watchers_hear_of_the_end() -> None:
    async with asyncio.timeout(20):
        async with serving("127.0.0.1:0", {}, grace=5) as endpoint:
            await endpoint.set_serving(True)
            channel = open_channel(f"127.0.0.1:{endpoint.port}")
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING
            hears = asyncio.create_task(watch.read())
            hears.add_done_callback(lambda _: watch.cancel())
        assert (await hears).status == NOT_SERVING
        await channel.close()


async def test_reflection_lists_the_services(peer: Peer) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(peer.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    async for answer in stub.ServerReflectionInfo(iter([asked])):
        names = {service.name for service in answer.list_services_response.service}
    assert names == {FAULTY, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_running_calls_finish_within_the_grace(peer: Peer) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: bytes, context: object) -> bytes:
        entered.set()
        await go_on.wait()
        return b"done"

    def add(server: grpc.aio.Server) -> None:
        handler: Any = grpc.unary_unary_rpc_method_handler(slow)
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("s", {"slow": handler})]
        )

    async with serving("127.0.0.1:0", {"s": add}, grace=30) as endpoint:
        channel = open_channel(f"127.0.0.1:{endpoint.port}")
        method: Any = channel.unary_unary("/s/slow")
        call = asyncio.ensure_future(method(b""))
        await asyncio.wait_for(entered.wait(), 20)
        asyncio.get_running_loop().call_later(0.2, go_on.set)
    assert await call == b"done"
    await channel.close()


async def test_a_server_that_comes_back_is_found_again() -> None:
    asked = agent_pb2.FetchChunksRequest(length=3)
    async with serving("127.0.0.1:0", AGENT, grace=0) as endpoint:
        address = f"127.0.0.1:{endpoint.port}"
        async with open_channel(address) as channel:
            stub = agent_pb2_grpc.AgentStub(channel)
            assert [chunk.data async for chunk in stub.FetchChunks(asked)] == [bytes(3)]
    async with open_channel(address) as channel:
        stub = agent_pb2_grpc.AgentStub(channel)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.FetchChunks(asked).read()
        async with serving(address, AGENT, grace=0), asyncio.timeout(20):
            fetched = stub.FetchChunks(asked, wait_for_ready=True)
            assert [chunk.data async for chunk in fetched] == [bytes(3)]


async def test_messages_up_to_the_limit_pass_and_no_further() -> None:
    async with (
        serving("127.0.0.1:0", AGENT, grace=0) as endpoint,
        open_channel(f"127.0.0.1:{endpoint.port}") as channel,
    ):
        stub = agent_pb2_grpc.AgentStub(channel)
        large = stub.FetchChunks(agent_pb2.FetchChunksRequest(length=MAX_MESSAGE_BYTES - 16))
        assert [len(chunk.data) async for chunk in large] == [MAX_MESSAGE_BYTES - 16]
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.FetchChunks(agent_pb2.FetchChunksRequest(length=MAX_MESSAGE_BYTES)).read()
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_unix_socket_serves_too(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    async with serving(address, {}, grace=0), open_channel(address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == NOT_SERVING


async def test_no_proxy_stands_between_peers(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    async with open_channel(f"127.0.0.1:{peer.endpoint.port}") as channel:
        method: Any = channel.unary_unary(f"/{FAULTY}/unary_unary")
        answer = await method(b"", timeout=20)
    assert answer == b"answer"


async def test_an_occupied_port_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InvalidSettings, match=f"can't listen on {address}: choose a free port"):
            async with serving(address, {}):
                pass


async def test_two_of_our_servers_do_not_share_a_port(peer: Peer) -> None:
    with pytest.raises(InvalidSettings, match="can't listen"):
        async with serving(f"127.0.0.1:{peer.endpoint.port}", {}):
            pass


@pytest.mark.parametrize("address", ["192.0.2.1:0", "no-such-host.invalid:0",
                                     "unix:/no/such/folder/s"])  # fmt: skip
async def test_an_address_that_is_not_ours_says_so(address: str) -> None:
    with pytest.raises(InvalidSettings, match="can't listen on") as caught:
        async with serving(address, {}):
            pass
    assert caught.value.where == address
