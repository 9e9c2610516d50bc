"""Probes are carried out against real servers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from lite_llm.testing.kubelet.checks import passes
from lite_llm.testing.kubelet.container import Container
from lite_llm.testing.kubelet.plan import ContainerPlan

IP = "127.0.0.1"
SPEC = {"name": "main", "ports": [{"name": "none", "containerPort": 1}]}


@pytest.fixture
async def container(tmp_path: Path) -> AsyncIterator[Container]:
    plan = ContainerPlan("main", ("sleep", "600"), {"PATH": os.environ["PATH"]}, "/", ())
    container = await Container.start(plan, scratch=tmp_path, log=tmp_path / "log")
    yield container
    container.kill()
    await container.wait()


async def outcome(container: Container, handler: str, action: dict[str, Any]) -> bool:
    return await passes(handler, action, container=container, spec=SPEC, ip=IP, timeout=5.0)


async def test_programs(container: Container) -> None:
    assert await outcome(container, "exec", {"command": ["true"]})
    assert not await outcome(container, "exec", {"command": ["false"]})
    assert not await outcome(container, "exec", {"command": ["no-such-program"]})
    slow = {"command": ["sleep", "600"]}
    assert not await passes("exec", slow, container=container, spec=SPEC, ip=IP, timeout=0.3)


async def test_http(container: Container) -> None:
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.path_qs, request.headers.get("X-A")))
        return web.Response(status=int(request.query["status"]))

    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, IP, 0)
    await site.start()
    port = runner.addresses[0][1]
    outcomes = {}
    for status in (200, 302, 399, 400, 503):
        action = {
            "port": port,
            "path": f"/health?status={status}",
            "httpHeaders": [{"name": "X-A", "value": "1"}],
        }
        outcomes[status] = await outcome(container, "httpGet", action)
    assert outcomes == {200: True, 302: True, 399: True, 400: False, 503: False}
    assert seen[0] == ("/health?status=200", "1")
    await runner.cleanup()
    assert not await outcome(container, "httpGet", {"port": port})
    assert not await outcome(container, "httpGet", {"port": "unheard-of"})


async def test_connections(container: Container) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), IP, 0)
    port = server.sockets[0].getsockname()[1]
    assert await outcome(container, "tcpSocket", {"port": port})
    server.close()
    await server.wait_closed()
    assert not await outcome(container, "tcpSocket", {"port": port})
    assert not await outcome(container, "tcpSocket", {"port": "none"})


async def test_grpc_health(container: Container) -> None:
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"{IP}:0")
    await server.start()
    await servicer.set("up", health_pb2.HealthCheckResponse.SERVING)
    await servicer.set("down", health_pb2.HealthCheckResponse.NOT_SERVING)
    outcomes = {
        service: await outcome(container, "grpc", {"port": port, "service": service})
        for service in ("up", "down", "unknown")
    }
    assert outcomes == {"up": True, "down": False, "unknown": False}
    await server.stop(None)
    assert not await outcome(container, "grpc", {"port": port})


async def test_what_is_unknown_fails(container: Container) -> None:
    assert not await outcome(container, "moon", {"port": 1})
