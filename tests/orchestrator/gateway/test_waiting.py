"""Who waits for whom: clients for a cold or busy model, agents for slow clients."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import aiohttp
import openai
import pytest
from aiohttp.connector import AddrInfoType

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import OutOfMemory, Overloaded
from lite_llm.openai import bodies, responses
from lite_llm.orchestrator import Orchestrator
from lite_llm.proto.v1.generate_pb2 import GenerateEvent, GenerateStart
from lite_llm.testing.stub_agent import StubAgent, saying

pytestmark = pytest.mark.usefixtures("model")


async def drawn(client: openai.AsyncOpenAI) -> str:
    stream = await client.completions.create(model="tiny", prompt="x", stream=True)
    return "".join([chunk.choices[0].text async for chunk in stream])


async def test_a_held_stream_is_kept_open_with_comments(
    client: openai.AsyncOpenAI, http: aiohttp.ClientSession, agent: StubAgent,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(responses, "HEARTBEAT_SECONDS", 0.05)
    agent.may_load.clear()
    body = {"model": "tiny", "prompt": "x", "stream": True}
    async with http.post("/v1/completions", json=body) as response:
        assert response.status == 200
        for _ in range(2):
            assert await response.content.readline() == b": waiting for the model\n"
            assert await response.content.readline() == b"\n"
        asking = asyncio.create_task(drawn(client))
        agent.may_load.set()
        *_, done, end = (await response.text()).split("\n\n")
        assert (done, end) == ("data: [DONE]", "")
    assert await asking == "one two three", "the client takes no notice of comments"


async def test_a_stream_that_pauses_is_kept_open_with_comments(
    http: aiohttp.ClientSession, agent: StubAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "HEARTBEAT_SECONDS", 0.05)
    goes_on = asyncio.Event()

    async def pausing(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        async for event in saying(start):
            if event.tokens.text == " two":
                await goes_on.wait()
            yield event

    agent.script = pausing
    body = {"model": "tiny", "prompt": "x", "stream": True}
    async with http.post("/v1/completions", json=body) as response:
        comments = 0
        async for line in response.content:
            comments += line == b": waiting for the next token\n"
            if comments == 3:
                goes_on.set()
    assert comments >= 3
    assert line == b"\n"


async def test_a_load_that_fails_after_a_comment_is_told_in_the_stream(
    client: openai.AsyncOpenAI, agent: StubAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "HEARTBEAT_SECONDS", 0.05)
    agent.may_load.clear()
    agent.load_error = OutOfMemory("no room", where="stub", remedy="unload one")
    # The answer's head comes with the first comment.
    stream = await client.completions.create(model="tiny", prompt="x", stream=True)
    agent.may_load.set()
    with pytest.raises(openai.APIError) as caught:
        _ = [chunk async for chunk in stream]
    assert caught.value.code == "out_of_memory"


async def test_a_load_that_fails_has_its_own_status(
    http: aiohttp.ClientSession, agent: StubAgent, model: ModelRef
) -> None:
    agent.load_error = OutOfMemory("no room", where="stub", remedy="unload one", retry_after=2.5)
    body = {"model": "tiny", "prompt": "x", "stream": True}
    async with http.post("/v1/completions", json=body) as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "3"
        assert (await response.json())["error"]["code"] == "out_of_memory"


async def test_without_an_agent_there_is_no_hang(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        await client.completions.create(model="tiny", prompt="x")
    assert caught.value.status_code == 503
    assert caught.value.code == "no_agent"


async def test_an_overloaded_agent_is_asked_again_by_the_client_itself(
    client: openai.AsyncOpenAI, http: aiohttp.ClientSession, agent: StubAgent
) -> None:
    refusals = 2

    async def busy(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise Overloaded("the queue is full", where="stub", retry_after=0.1)
        async for event in saying(start):
            yield event

    agent.script = busy
    body = {"model": "tiny", "prompt": "x", "stream": True}
    async with http.post("/v1/completions", json=body) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "1")
    patient = client.with_options(max_retries=1)
    answer = await patient.completions.create(model="tiny", prompt="x")
    assert answer.choices[0].text == "one two three"
    assert len(agent.generations) == 3


async def test_a_body_that_does_not_come_is_not_waited_for(
    http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)
    never = asyncio.Event()

    async def trickle() -> AsyncIterator[bytes]:
        yield b"{"
        await never.wait()

    async with http.post("/v1/chat/completions", data=trickle()) as response:
        assert response.status == 408
        assert (await response.json())["error"]["type"] == "invalid_request_error"
    never.set()


def small_socket(address: AddrInfoType) -> socket.socket:
    """With a buffer that does not grow: 64 KiB, which the kernel doubles."""
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    return made


async def test_a_slow_reader_slows_the_agent_down(
    orchestrator: Orchestrator, agent: StubAgent
) -> None:
    words, said = ["x" * 100_000] * 600, 0

    async def chatty(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        nonlocal said
        async for event in saying(start, words):
            yield event
            said += 1

    async def wait_still() -> int:
        before = -1
        while before < said:
            before = said
            await asyncio.sleep(0.5)
        return said

    agent.script = chatty
    body = {"model": "tiny", "prompt": "a", "stream": True}
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=small_socket)) as http,
        http.post(f"http://{orchestrator.http_address}/v1/completions", json=body) as response,
    ):
        # What is under way fills the buffers of kernels and libraries, some megabytes.
        assert await asyncio.wait_for(wait_still(), 60) < len(words)
        size = 0
        async for data in response.content.iter_any():
            size += len(data)
    assert size > sum(map(len, words))
    assert said == len(words) + 2


async def test_one_slow_reader_keeps_nobody_else_waiting(
    http: aiohttp.ClientSession, client: openai.AsyncOpenAI, agent: StubAgent
) -> None:
    async def script(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        words = ["x" * 100_000] * 300 if start.text == "much" else ("one", " two", " three")
        async for event in saying(start, words):
            yield event

    agent.script = script
    body = {"model": "tiny", "prompt": "much", "stream": True}
    async with http.post("/v1/completions", json=body) as response:
        assert response.status == 200
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(drawn(client) for _ in range(64)))
        response.close()
    assert answers == ["one two three"] * 64
    await asyncio.wait_for(agent.withdrawn.wait(), 10)


async def test_a_client_that_takes_nothing_is_hung_up_on(
    orchestrator: Orchestrator, agent: StubAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(responses, "STUCK_SECONDS", 0.5)
    agent.script = lambda start: saying(start, ["x" * 100_000] * 600)
    body = {"model": "tiny", "prompt": "a", "stream": True}
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=small_socket)) as http,
        http.post(f"http://{orchestrator.http_address}/v1/completions", json=body) as response,
    ):
        await asyncio.wait_for(agent.withdrawn.wait(), 30)
        with pytest.raises(aiohttp.ClientError):
            await response.read()
