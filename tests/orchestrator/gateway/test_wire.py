"""HTTP as it lies on the wire: framing, pipelining, limits; seen from a bare socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lite_llm.orchestrator import Orchestrator
from lite_llm.proto.v1.generate_pb2 import GenerateEvent, GenerateStart
from lite_llm.testing.stub_agent import StubAgent, saying

pytestmark = pytest.mark.usefixtures("model")

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def line(orchestrator: Orchestrator) -> AsyncIterator[Line]:
    host, _, port = orchestrator.http_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    yield reader, writer
    writer.close()
    await writer.wait_closed()


def post(body: dict[str, Any], path: str = "/v1/completions") -> bytes:
    data = json.dumps(body).encode()
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (
        path.encode(), len(data), data,
    )  # fmt: skip


async def head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    status, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
    pairs = (field.split(": ", 1) for field in fields)
    return int(status.split()[1]), {name.lower(): value for name, value in pairs}


async def http_chunk(reader: asyncio.StreamReader) -> bytes:
    size = int(await reader.readuntil(b"\r\n"), 16)
    return (await reader.readexactly(size + 2))[:-2]


class Events:
    """Of a stream, however they lie in chunks: what came together is sent together."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._said = b""

    async def next(self) -> bytes:
        """Empty at the end."""
        while b"\n\n" not in self._said:
            if not (chunk := await http_chunk(self._reader)):
                assert not self._said
                return b""
            self._said += chunk
        event, end, self._said = self._said.partition(b"\n\n")
        return event + end


async def test_every_token_is_an_event_and_is_sent_at_once(line: Line, agent: StubAgent) -> None:
    reader, writer = line
    read = asyncio.Event()

    async def patient(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        async for event in saying(start):
            if event.HasField("tokens") and event.sequence > 1:
                await read.wait()
                read.clear()
            yield event

    agent.script = patient
    writer.write(post({"model": "tiny", "prompt": "x", "stream": True}))
    async with asyncio.timeout(30):
        status, fields = await head(reader)
        assert (status, fields["content-type"]) == (200, "text/event-stream")
        assert fields["cache-control"] == "no-cache"
        events = Events(reader)
        for word in ("one", " two", " three"):
            event = await events.next()
            assert event.startswith(b"data: {")
            assert event.endswith(b"}\n\n")
            assert event.count(b"\n") == 2
            assert json.loads(event[6:])["choices"][0]["text"] == word
            read.set()
        assert b'"finish_reason":"stop"' in await events.next()
        assert await events.next() == b"data: [DONE]\n\n"
        assert await events.next() == b""


async def test_a_line_break_in_a_text_does_not_break_an_event(line: Line, agent: StubAgent) -> None:
    reader, writer = line
    agent.script = lambda start: saying(start, ["a\n\nb\r\u2028"])
    writer.write(post({"model": "tiny", "prompt": "x", "stream": True}))
    async with asyncio.timeout(30):
        await head(reader)
        event = await Events(reader).next()
    assert event.count(b"\n") == 2
    assert json.loads(event[6:])["choices"][0]["text"] == "a\n\nb\r\u2028"


async def test_requests_in_a_row_on_one_line(line: Line, agent: StubAgent) -> None:
    reader, writer = line
    writer.write(post({"model": "tiny", "prompt": "x"}) + post({"model": "none", "prompt": "x"}))
    writer.write(post({"model": "tiny", "prompt": "x"}))
    statuses = []
    async with asyncio.timeout(30):
        for _ in range(3):
            status, fields = await head(reader)
            json.loads(await reader.readexactly(int(fields["content-length"])))
            statuses.append(status)
    assert statuses == [200, 404, 200]


async def test_a_header_beyond_the_limit_is_refused(line: Line) -> None:
    reader, writer = line
    writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 9000)
    async with asyncio.timeout(30):
        status, _ = await head(reader)
    assert status == 400
