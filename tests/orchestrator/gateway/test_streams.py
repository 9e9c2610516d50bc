"""What becomes of a stream when its client, its agent or its load fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest

from lite_llm.contracts.errors import Cancelled, WorkerCrashed
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


async def test_a_client_that_closes_its_stream_takes_its_work_along(
    client: openai.AsyncOpenAI, agent: StubAgent
) -> None:
    agent.script = stuck
    stream = await client.completions.create(model="tiny", prompt="x", stream=True)
    assert (await anext(aiter(stream))).choices[0].text == "one"
    await stream.close()
    await asyncio.wait_for(agent.withdrawn.wait(), 10)
