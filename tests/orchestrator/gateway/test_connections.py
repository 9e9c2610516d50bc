"""Clients that speak no HTTP, or speak it very slowly, or say far too much."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from lite_llm.gateway import connections
from lite_llm.openai import bodies
from lite_llm.orchestrator import Orchestrator
from lite_llm.testing.stub_agent import StubAgent

pytestmark = pytest.mark.usefixtures("model", "agent")

BODY = b'{"model": "tiny", "prompt": "x"}'
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(BODY)
SOON = 20.0


async def heard(orchestrator: Orchestrator, *said: bytes, pause: float = 0.0) -> bytes:
    """All that comes until the line ends."""
    host, _, port = orchestrator.http_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    async def say() -> None:
        for part in said:
            writer.write(part)
            await asyncio.sleep(pause)

    saying = asyncio.create_task(say())
    try:
        async with asyncio.timeout(SOON):
            return await reader.read()
    finally:
        saying.cancel()
        await asyncio.gather(saying, return_exceptions=True)
        writer.close()


def error(answer: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower()
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/models HTTP/9.9x\r\nHost: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nBad Name: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 9000,
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        HEAD + b"Content-Length: 7\r\n\r\n" + BODY,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + BODY,
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_answered_in_the_usual_shape(
    orchestrator: Orchestrator, said: bytes
) -> None:
    status, told = error(await heard(orchestrator, said))
    assert status == 400
    assert (told["type"], told["code"]) == ("invalid_request_error", "bad_request")
    assert told["message"]
    assert len(told["message"]) <= connections.MAX_WORDS


async def test_slow_headers_are_cut_off(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    drops = [bytes([byte]) for byte in HEAD[:40]]
    status, told = error(await heard(orchestrator, *drops, pause=0.05))
    assert status == 408
    assert "headers" in told["message"]


async def test_a_line_on_which_nothing_comes_is_closed(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.3)
    assert await heard(orchestrator) == b""


async def test_a_line_that_was_used_may_rest_but_not_dawdle(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.3)
    host, _, port = orchestrator.http_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(SOON):
        for _ in range(2):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.6)
        writer.write(b"GET /hea")
        assert error(await reader.read())[0] == 408
    writer.close()


async def test_a_slow_body_is_cut_off(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.3)
    host, _, port = orchestrator.http_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(HEAD + b"\r\n" + BODY[:5])
    async with asyncio.timeout(SOON):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408")
    writer.close()


async def test_a_hundred_dawdlers_keep_nobody_else_waiting(
    orchestrator: Orchestrator, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1.0)
    dawdlers = [asyncio.create_task(heard(orchestrator, HEAD)) for _ in range(100)]
    await asyncio.sleep(0.1)
    async with http.post("/v1/completions", data=BODY) as response:
        assert response.status == 200
    answers = await asyncio.gather(*dawdlers)
    assert {error(answer)[0] for answer in answers} == {408}


@pytest.mark.parametrize("says_its_size", [True, False])
async def test_a_hundred_megabytes_are_refused_and_not_kept(
    orchestrator: Orchestrator, http: aiohttp.ClientSession, says_its_size: bool
) -> None:
    host, _, port = orchestrator.http_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    size = 100 << 20
    size_field = b"Content-Length: %d" % size if says_its_size else b"Transfer-Encoding: chunked"
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n" % size_field)

    async def pour() -> None:
        megabyte = b" " * (1 << 20)
        for _ in range(size // len(megabyte)):
            if not says_its_size:
                writer.write(b"%x\r\n" % len(megabyte))
            writer.write(megabyte if says_its_size else megabyte + b"\r\n")
            await writer.drain()

    pouring = asyncio.create_task(pour())
    async with asyncio.timeout(SOON):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413")
    async with http.post("/v1/completions", data=BODY) as response:
        assert response.status == 200
    pouring.cancel()
    await asyncio.gather(pouring, return_exceptions=True)
    writer.close()


async def test_expectations(orchestrator: Orchestrator, agent: StubAgent) -> None:
    close = b"Connection: close\r\n"
    answer = await heard(orchestrator, HEAD + close + b"Expect: 100-continue\r\n\r\n", BODY)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")
    answer = await heard(orchestrator, HEAD + close + b"Expect: wonders\r\n\r\n", BODY)
    assert error(answer)[0] == 417
    assert len(agent.generations) == 1
