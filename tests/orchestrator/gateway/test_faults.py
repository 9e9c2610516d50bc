"""What goes wrong around a door: the store, clocks, agents of another version or none at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import aiohttp
import grpc.aio
import openai
import pytest

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import AgentKey, ModelKey, key_of
from lite_llm.metastore import Store, open_store
from lite_llm.orchestrator import Orchestrator, OrchestratorSettings, running
from lite_llm.proto.v1.agent_pb2 import AgentStatus, Health
from lite_llm.proto.v1.generate_pb2 import GenerateEvent, GenerateStart
from lite_llm.proto.v1.model_pb2 import ModelSource, ModelSpec, Scaling
from lite_llm.proto.v1.orchestrator_pb2_grpc import OrchestratorStub
from lite_llm.testing.etcd import EtcdServer, etcd_server
from lite_llm.testing.stub_agent import WORDS, StubAgent, saying, stub_agent
from lite_llm.wire import dumps, open_channel, ref_to_proto, requests

SOON = 60.0
TEXT = "".join(WORDS)
OUTAGE_SECONDS = 3.0


@pytest.fixture
def settings(settings: OrchestratorSettings) -> OrchestratorSettings:
    return replace(settings, no_agent_seconds=20.0)


async def declare(store: Store, model: ModelRef, **fields: Any) -> None:
    source = ModelSource(uri="file:///models/tiny")
    spec = ModelSpec(ref=ref_to_proto(model), source=source, **fields)
    await store.put(key_of(ModelKey(model)), dumps(spec))


async def said(client: openai.AsyncOpenAI, model: str = "tiny", **fields: Any) -> str:
    """Streamed."""
    chunks = await client.completions.create(model=model, prompt="x", stream=True, **fields)
    return "".join([chunk.choices[0].text async for chunk in chunks])


async def listed(client: openai.AsyncOpenAI, count: int) -> None:
    """Returns when so many models are."""
    while len([model async for model in client.models.list()]) < count:  # noqa: ASYNC110 - over HTTP
        await asyncio.sleep(0.05)


class Paused:
    """An answer that stops before its last word until it is told to go on."""

    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        async for event in saying(start):
            if event.sequence == len(WORDS):
                self.begun.set()
                await self.go_on.wait()
            yield event


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    with etcd_server() as server:
        yield server


async def test_with_etcd_gone_requests_go_on_and_after_it_news_is_heard(
    etcd: EtcdServer, settings: OrchestratorSettings
) -> None:
    tiny, late = ModelRef("default", "tiny"), ModelRef("default", "late")
    async with (
        asyncio.timeout(SOON),
        open_store(etcd.settings()) as store,
        stub_agent(store) as agent,
        running(settings, store) as orchestrator,
        openai.AsyncOpenAI(
            base_url=f"http://{orchestrator.http_address}/v1", api_key="none", max_retries=0
        ) as client,
    ):
        await declare(store, tiny)
        await agent.hold(ref_to_proto(tiny))
        await listed(client, 1)
        agent.script = paused = Paused()
        stream = asyncio.create_task(said(client))
        await paused.begun.wait()
        await asyncio.to_thread(etcd.kill)
        agent.script = saying
        until = time.monotonic() + OUTAGE_SECONDS
        while time.monotonic() < until:
            assert await said(client) == TEXT
            await asyncio.sleep(0.2)
        paused.go_on.set()
        assert await stream == TEXT
        await asyncio.to_thread(etcd.restart)
        await declare(store, late)
        await listed(client, 2)
        assert await said(client, "late") == TEXT


@pytest.mark.parametrize("hours", [1, -1, 24 * 365])
async def test_a_step_of_the_clock_disturbs_nobody(
    settings: OrchestratorSettings,
    store: Store,
    agent: StubAgent,
    monkeypatch: pytest.MonkeyPatch,
    hours: int,
) -> None:
    tiny, cold = ModelRef("default", "tiny"), ModelRef("default", "cold")
    for model in (tiny, cold):
        await declare(store, model, scaling=Scaling(max_replicas=1, idle_seconds=600))
    await agent.hold(ref_to_proto(tiny), running_requests=1)
    async with (
        asyncio.timeout(SOON),
        running(replace(settings, scaling_seconds=0.1), store) as orchestrator,
        openai.AsyncOpenAI(
            base_url=f"http://{orchestrator.http_address}/v1", api_key="none", max_retries=0
        ) as client,
    ):
        agent.script = paused = Paused()
        agent.may_load.clear()
        stream, held = (asyncio.create_task(said(client, name)) for name in ("tiny", "cold"))
        await paused.begun.wait()
        await agent.loading.wait()
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + hours * 3600)
        await asyncio.sleep(0.5)  # several looks of the autoscaler
        assert not agent.unloads
        agent.may_load.set()
        paused.go_on.set()
        assert await stream == TEXT
        assert await held == TEXT
        assert await said(client) == TEXT


async def test_an_agent_of_an_older_version_is_asked_one_by_one(
    store: Store, client: openai.AsyncOpenAI, model: ModelRef
) -> None:
    async with stub_agent(store, is_older=True) as agent:
        answers = await asyncio.gather(*(said(client) for _ in range(5)))
        assert answers == [TEXT] * 5
        assert len(agent.generations) == 5


@pytest.mark.parametrize("becomes_older", [True, False])
async def test_an_agent_that_comes_back_with_another_version_goes_on(
    store: Store, client: openai.AsyncOpenAI, model: ModelRef, becomes_older: bool
) -> None:
    async with asyncio.timeout(SOON), stub_agent(store, is_older=not becomes_older) as before:
        before.script = Paused()
        chunks = await client.completions.create(model="tiny", prompt="x", stream=True)
        begun = (await anext(aiter(chunks))).choices[0].text
        await before.die()
        async with stub_agent(store, is_older=becomes_older) as after:
            assert begun + "".join([chunk.choices[0].text async for chunk in chunks]) == TEXT
            assert after.generations[0].resume.next_sequence > 0


async def test_one_that_speaks_no_grpc_is_passed_by(
    store: Store, client: openai.AsyncOpenAI, model: ModelRef
) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" * 100)
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    address = "{}:{}".format(*server.sockets[0].getsockname())
    async with server, asyncio.timeout(SOON), stub_agent(store, "good") as good:
        status = AgentStatus(node="bad", grpc_address=address, health=Health(healthy=True))
        await store.put(key_of(AgentKey("bad")), dumps(status))
        for node in ("bad", "good"):
            await StubAgent(node, store, good.lease).hold(ref_to_proto(model))
        answers = await asyncio.gather(*(said(client) for _ in range(10)))
        assert answers == [TEXT] * 10


async def test_a_call_over_which_nothing_comes_is_ended(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "START_SECONDS", 0.2)
    async with asyncio.timeout(SOON), open_channel(orchestrator.grpc_address) as channel:
        call = OrchestratorStub(channel).Generate()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call.read()
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("stream", [True, False])
async def test_the_work_of_a_client_that_vanishes_ends_within_a_second(
    http: aiohttp.ClientSession,
    agent: StubAgent,
    model: ModelRef,
    stream: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent.script = paused = Paused()
    body = {"model": "tiny", "prompt": "x", "stream": stream}
    loop = asyncio.get_running_loop()
    call_at = loop.call_at

    def call_within_a_second(when: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        handle = call_at(when, *args, **kwargs)
        if when > loop.time() + 1.0:
            handle.cancel()
        return handle

    asking = asyncio.create_task(http.post("/v1/completions", json=body))
    await asyncio.wait_for(paused.begun.wait(), SOON)
    response = await asking if stream else None
    async with asyncio.timeout(SOON):
        # From here on nobody is woken by a timer of more than a second: it all goes without.
        monkeypatch.setattr(loop, "call_at", call_within_a_second)
        if response is not None:
            response.close()
        else:
            asking.cancel()
        began = time.monotonic()
        await agent.withdrawn.wait()
        monkeypatch.undo()
    # A second is what is promised, on a machine that has time for us.
    assert time.monotonic() - began < 5
