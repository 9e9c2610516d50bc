"""What becomes of a stream when its client, its agent or its load fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import Cancelled, OutOfMemory, WorkerCrashed
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
