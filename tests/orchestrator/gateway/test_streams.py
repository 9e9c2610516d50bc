"""What becomes of a stream when its client, its agent or its load fails."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp.connector import AddrInfoType

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import Cancelled, OutOfMemory, Overloaded, WorkerCrashed
from lite_llm.gateway import bodies, responses
from lite_llm.orchestrator import Orchestrator
from lite_llm.proto.v1.generate_pb2 import (
    FINISH_REASON_CANCELLED,
    GenerateEvent,
    GenerateFinished,
    GenerateStart,
)
from lite_llm.testing.stub_agent import StubAgent, saying

pytestmark = pytest.mark.usefixtures("model")


async def stuck(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
    """Says the first word and no more."""
    async for event in saying(start):
        yield event
        if event.sequence == 1:
            await asyncio.Event().wait()


async def drained(stream: AsyncIterator[object]) -> None:
    async for _ in stream:
        pass


async def test_a_client_that_vanishes_takes_its_work_along(
    http: aiohttp.ClientSession, agent: StubAgent
) -> None:
    agent.script = stuck
    body = {"model": "tiny", "prompt": "x", "stream": True}
    response = await http.post("/v1/completions", json=body)
    assert b"one" in await response.content.readline()
    assert not agent.withdrawn.is_set()
    response.close()
    await asyncio.wait_for(agent.withdrawn.wait(), 10)


async def test_a_client_that_gives_up_waiting_takes_its_work_along(
    http: aiohttp.ClientSession, agent: StubAgent
) -> None:
    agent.script = stuck
    body = {"model": "tiny", "prompt": "x"}
    asking = asyncio.create_task(http.post("/v1/completions", json=body))
    await asyncio.wait_for(agent.asked.wait(), 10)
    asking.cancel()
    await asyncio.wait_for(agent.withdrawn.wait(), 10)


async def crashing(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
    async for event in saying(start, ["one"]):
        if event.HasField("finished"):
            raise WorkerCrashed("the worker crashed", remedy="try again")
        yield event


async def stopping(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
    async for event in saying(start, ["one"]):
        if event.HasField("finished"):
            raise Cancelled("the server stops")
        yield event


async def skipping(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
    async for event in saying(start):
        if event.sequence != 2:
            yield event


async def breaking_off(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
    async for event in saying(start):
        if not event.HasField("finished"):
            yield event


async def giving_up(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
    async for event in saying(start, ["one"]):
        if event.HasField("finished"):
            event.finished.CopyFrom(GenerateFinished(reason=FINISH_REASON_CANCELLED))
        yield event


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (crashing, "worker_crashed"),
        (skipping, "internal"),
        (breaking_off, "agent_lost"),
        (giving_up, "agent_lost"),
        (stopping, "agent_lost"),
    ],
)
async def test_a_stream_that_breaks_says_so(
    client: openai.AsyncOpenAI, agent: StubAgent, script: Any, code: str
) -> None:
    agent.script = script
    stream = await client.completions.create(model="tiny", prompt="x", stream=True)
    assert (await anext(aiter(stream))).choices[0].text == "one"
    with pytest.raises(openai.APIError) as caught:
        await drained(stream)
    assert caught.value.code == code
    with pytest.raises(openai.InternalServerError) as whole:
        await client.completions.create(model="tiny", prompt="x")
    assert whole.value.code == code


async def test_an_agent_that_dies_ends_the_stream_with_an_error(
    client: openai.AsyncOpenAI, agent: StubAgent
) -> None:
    agent.script = stuck
    stream = await client.completions.create(model="tiny", prompt="x", stream=True)
    assert (await anext(aiter(stream))).choices[0].text == "one"
    await agent.die()
    with pytest.raises(openai.APIError) as caught:
        await drained(stream)
    assert caught.value.code == "agent_lost"


async def test_a_load_that_fails_has_its_own_status(
    http: aiohttp.ClientSession, agent: StubAgent, model: ModelRef
) -> None:
    agent.load_error = OutOfMemory("no room", where="stub", remedy="unload one", retry_after=2.5)
    body = {"model": "tiny", "prompt": "x", "stream": True}
    async with http.post("/v1/completions", json=body) as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "3"
        assert (await response.json())["error"]["code"] == "out_of_memory"
    agent.load_error = None
    async with http.post("/v1/completions", json=body) as response:
        assert response.status == 200


async def test_without_an_agent_there_is_no_hang(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        await client.completions.create(model="tiny", prompt="x")
    assert caught.value.status_code == 503
    assert caught.value.code == "no_agent"


async def test_a_client_that_vanishes_takes_every_prompt_along(
    http: aiohttp.ClientSession, agent: StubAgent
) -> None:
    left, all_left = 0, asyncio.Event()

    async def counted(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        nonlocal left
        try:
            async for event in stuck(start):
                yield event
        finally:
            left += 1
            if left == 3:
                all_left.set()

    agent.script = counted
    body = {"model": "tiny", "prompt": ["a", "b", "c"], "stream": True}
    response = await http.post("/v1/completions", json=body)
    for _ in range(3):
        assert b"one" in await response.content.readline()
        await response.content.readline()
    response.close()
    await asyncio.wait_for(all_left.wait(), 10)


async def test_one_prompt_that_fails_ends_the_others(
    http: aiohttp.ClientSession, agent: StubAgent
) -> None:
    async def script(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        if start.text == "bad":
            await agent.asked.wait()
            raise WorkerCrashed("the worker crashed", remedy="try again")
        async for event in stuck(start):
            yield event

    agent.script = script
    body = {"model": "tiny", "prompt": ["good", "bad"]}
    async with http.post("/v1/completions", json=body) as response:
        assert response.status == 503
        assert (await response.json())["error"]["code"] == "worker_crashed"
    await asyncio.wait_for(agent.withdrawn.wait(), 10)


async def speaking_of_others(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
    async for event in saying(start):
        if event.HasField("tokens"):
            event.tokens.index = 1
        yield event


async def beginning_twice(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
    async for event in saying(start):
        if event.sequence == 1:
            event.started.request_id = start.request_id
        yield event


async def not_rating_the_prompt(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
    start.sampling.ClearField("prompt_logprobs")
    async for event in saying(start):
        yield event


async def ending_twice(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
    async for event in saying(start):
        if event.HasField("finished"):
            event.finished.index = 0
        yield event


@pytest.mark.parametrize(
    ("script", "fields", "words"),
    [
        (speaking_of_others, {}, "sequence 1, which is not open"),
        (ending_twice, {"n": 2}, "sequence 0, which is not open"),
        (beginning_twice, {}, "begins twice"),
        (not_rating_the_prompt, {"echo": True, "logprobs": 1}, "sequence 0, which is not open"),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
async def test_an_agent_that_lies_is_caught(
    http: aiohttp.ClientSession,
    agent: StubAgent,
    script: Any,
    fields: dict[str, Any],
    words: str,
    streams: bool,
) -> None:
    agent.script = script
    body = {"model": "tiny", "prompt": "x", "stream": streams, **fields}
    async with http.post("/v1/completions", json=body) as response:
        text = await response.text()
    assert words in text
    assert "[DONE]" not in text
    assert response.status == (200 if streams else 500)


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


async def drawn(client: openai.AsyncOpenAI) -> str:
    stream = await client.completions.create(model="tiny", prompt="x", stream=True)
    return "".join([chunk.choices[0].text async for chunk in stream])


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
        await drained(stream)
    assert caught.value.code == "out_of_memory"


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


async def test_a_client_that_closes_its_stream_takes_its_work_along(
    client: openai.AsyncOpenAI, agent: StubAgent
) -> None:
    agent.script = stuck
    stream = await client.completions.create(model="tiny", prompt="x", stream=True)
    assert (await anext(aiter(stream))).choices[0].text == "one"
    await stream.close()
    await asyncio.wait_for(agent.withdrawn.wait(), 10)


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
