"""Carries out what probes and lifecycle hooks ask for: a program, a request, a connection."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lite_llm.testing.kubelet.container import Container, StartFailed
from lite_llm.testing.kubelet.environment import Object
from lite_llm.testing.kubelet.probes import port_number

FAILURES = (aiohttp.ClientError, OSError, TimeoutError, ValueError, StartFailed, grpc.RpcError)


async def passes(
    handler: str, action: Object, *, container: Container, spec: Object, ip: str, timeout: float
) -> bool:
    """Whether the action succeeds within ``timeout`` seconds, against Pod address ``ip``."""
    try:
        async with asyncio.timeout(timeout):
            return await _succeeds(handler, action, container, spec, ip)
    except FAILURES:
        return False


async def _succeeds(
    handler: str, action: Object, container: Container, spec: Object, ip: str
) -> bool:
    if handler == "exec":
        code, _ = await container.execute(action["command"])
        return code == 0
    if handler == "sleep":
        await asyncio.sleep(action["seconds"])
        return True
    host = action.get("host") or ip
    port = port_number(action["port"], spec)
    if handler == "httpGet":
        return await _http(action, host, port)
    if handler == "tcpSocket":
        _, writer = await asyncio.open_connection(host, port)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return True
    if handler == "grpc":
        return await _grpc(action.get("service") or "", host, port)
    raise ValueError(f"{handler} is no handler that is known here")


async def _http(action: Object, host: str, port: int) -> bool:
    scheme = action.get("scheme", "HTTP").lower()
    path = action.get("path") or "/"
    headers = {"User-Agent": "kube-probe/process"}
    headers |= {one["name"]: one["value"] for one in action.get("httpHeaders") or ()}
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            f"{scheme}://{host}:{port}/{path.removeprefix('/')}",
            headers=headers,
            allow_redirects=False,
            ssl=False,  # as Kubernetes: a probe asks for life, not for identity
        ) as response,
    ):
        return 200 <= response.status < 400


async def _grpc(service: str, host: str, port: int) -> bool:
    async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
