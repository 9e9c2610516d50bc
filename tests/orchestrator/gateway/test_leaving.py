"""An orchestrator that stops: what it finishes, what it sends elsewhere, and that it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import aiohttp
import grpc
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from lite_llm.gateway.leaving import Leaving
from lite_llm.metastore import Store
from lite_llm.openai.failures import in_openai_shape
from lite_llm.orchestrator import Orchestrator, OrchestratorSettings, running
from lite_llm.proto.v1.generate_pb2 import GenerateEvent, GenerateStart
from lite_llm.proto.v1.orchestrator_pb2 import WatchRequest
from lite_llm.proto.v1.orchestrator_pb2_grpc import OrchestratorStub
from lite_llm.testing.stub_agent import WORDS, StubAgent, saying
from lite_llm.wire import open_channel

pytestmark = pytest.mark.usefixtures("model")

SOON = 30.0
BODY = {"model": "tiny", "prompt": "x"}


class Door:
    """A running orchestrator that a test can stop."""

    def __init__(self, settings: OrchestratorSettings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._house = AsyncExitStack()

    async def open(self, grace_seconds: float) -> Orchestrator:
        settings = replace(self._settings, grace_seconds=grace_seconds)
        return await self._house.enter_async_context(running(settings, self._store))

    async def stop(self) -> None:
        async with asyncio.timeout(SOON):
            await self._house.aclose()


@pytest.fixture
async def door(settings: OrchestratorSettings, store: Store) -> AsyncIterator[Door]:
    door = Door(settings, store)
    yield door
    await door.stop()


def client(orchestrator: Orchestrator) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(f"http://{orchestrator.http_address}")


@pytest.mark.parametrize("grace_seconds", [0.0, 0.5])
async def test_what_was_sent_nothing_is_sent_elsewhere(
    door: Door, agent: StubAgent, grace_seconds: float
) -> None:
    agent.may_load.clear()
    async with client(await door.open(grace_seconds)) as http:
        asking = asyncio.create_task(http.post("/v1/completions", json=BODY))
        await asyncio.wait_for(agent.loading.wait(), SOON)
        await door.stop()
        async with await asking as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
            assert (await response.json())["error"]["code"] == "no_agent"


async def test_what_has_begun_is_finished_within_the_grace(door: Door, agent: StubAgent) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def script(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        async for event in saying(start):
            if event.sequence == len(WORDS):
                begun.set()
                await go_on.wait()
            yield event

    agent.script = script
    async with client(await door.open(SOON)) as http:
        whole = asyncio.create_task(http.post("/v1/completions", json=BODY))
        async with http.post("/v1/completions", json={**BODY, "stream": True}) as streamed:
            await asyncio.wait_for(begun.wait(), SOON)
            stopping = asyncio.create_task(door.stop())
            await asyncio.sleep(0.1)
            assert not stopping.done()
            with pytest.raises(aiohttp.ClientConnectorError):
                await http.get("/readyz")  # nobody listens for new lines
            go_on.set()
            assert (await streamed.read()).endswith(b"data: [DONE]\n\n")
        async with await whole as response:
            assert json.loads(await response.read())["choices"][0]["text"] == "".join(WORDS)
            assert response.headers["Connection"] == "close"
        await stopping


async def test_a_line_that_is_open_hears_that_the_door_leaves(door: Door, agent: StubAgent) -> None:
    agent.may_load.clear()
    async with client(await door.open(SOON)) as http:
        async with http.get("/readyz") as response:
            assert response.status == 200
        asking = asyncio.create_task(http.post("/v1/completions", json=BODY))
        async with http.get("/readyz") as response:  # on a second line, which is kept
            assert response.status == 200
        await asyncio.wait_for(agent.loading.wait(), SOON)
        stopping = asyncio.create_task(door.stop())
        await asyncio.sleep(0.1)
        async with http.get("/readyz") as response:
            assert (response.status, response.headers["Connection"]) == (503, "close")
        agent.may_load.set()
        assert (await asking).status == 200
        await stopping


async def test_a_stream_beyond_the_grace_is_cut(door: Door, agent: StubAgent) -> None:
    async def endless(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        async for event in saying(start):
            yield event
            if event.sequence == 1:
                await asyncio.Event().wait()

    agent.script = endless
    async with (
        client(await door.open(0.0)) as http,
        http.post("/v1/completions", json={**BODY, "stream": True}) as response,
    ):
        assert b"one" in await response.content.readline()
        await door.stop()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    await asyncio.wait_for(agent.withdrawn.wait(), SOON)


async def test_nobody_begins_once_the_grace_is_over() -> None:
    """Lines that are open take requests until the last answer; what ignores its end ends nobody."""
    leaving, stuck, go_on = Leaving(), asyncio.Event(), asyncio.Event()

    async def quick(request: web.Request) -> web.Response:
        return web.Response()

    async def slow(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError("it has no end")

    async def stubborn(request: web.Request) -> web.Response:
        try:
            await asyncio.Event().wait()
        finally:
            stuck.set()
            await go_on.wait()
        raise AssertionError("it has no end")

    app = web.Application(middlewares=[in_openai_shape, leaving.middleware])
    app.router.add_get("/slow", slow)
    app.router.add_get("/stubborn", stubborn)
    app.router.add_get("/", quick)
    http: TestClient[web.Request, web.Application] = TestClient(TestServer(app))
    async with asyncio.timeout(SOON), http:
        await (await http.get("/")).read()  # on a line that stays open
        first = asyncio.create_task(http.get("/stubborn"))
        second = asyncio.create_task(http.get("/"))
        await (await second).read()
        ending = asyncio.create_task(leaving.leave(0.0))
        await stuck.wait()
        assert (await http.get("/slow")).status == 503
        await ending
        assert not first.done()
        go_on.set()
        assert (await first).status == 503


async def test_a_watch_by_grpc_uses_up_no_grace(door: Door) -> None:
    orchestrator = await door.open(600.0)
    async with open_channel(orchestrator.grpc_address) as channel:
        watch = OrchestratorStub(channel).Watch(WatchRequest())
        await watch.read()
        await door.stop()
        assert await watch.code() is grpc.StatusCode.OK
