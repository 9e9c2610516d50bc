"""Two orchestrators behind a plain TCP balancer, one of which ends under load."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator

import aiohttp
import openai
import pytest

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import ModelKey, key_of
from lite_llm.metastore import Store, open_store
from lite_llm.proto.v1.generate_pb2 import GenerateEvent, GenerateStart
from lite_llm.proto.v1.model_pb2 import ModelSource, ModelSpec
from lite_llm.testing.balancer import balancing
from lite_llm.testing.command import Command
from lite_llm.testing.etcd import EtcdServer, etcd_server
from lite_llm.testing.guard import Guard, free_ports
from lite_llm.testing.stub_agent import WORDS, StubAgent, saying, stub_agent
from lite_llm.wire import dumps, ref_to_proto

MODEL = ModelRef("default", "tiny")
CLIENTS = 8  # of each kind
SECONDS = 0.5  # of an answer before its first word
SOON = 90.0
TEXT = "".join(WORDS)


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    with etcd_server() as server:
        yield server


@pytest.fixture
async def shared(etcd: EtcdServer) -> AsyncIterator[Store]:
    async with open_store(etcd.settings()) as store:
        spec = ModelSpec(ref=ref_to_proto(MODEL), source=ModelSource(uri="file:///models/tiny"))
        await store.put(key_of(ModelKey(MODEL)), dumps(spec))
        yield store


async def slowly(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
    await asyncio.sleep(SECONDS)
    async for event in saying(start):
        yield event
        await asyncio.sleep(SECONDS / 10)


@pytest.fixture
async def held(shared: Store) -> AsyncIterator[StubAgent]:
    async with stub_agent(shared) as agent:
        agent.script = slowly
        await agent.hold(ref_to_proto(MODEL))
        yield agent


class Doors:
    """Two processes; the first is the one to end."""

    def __init__(self, guard: Guard, etcd: EtcdServer) -> None:
        self.ports = free_ports(2)
        self.commands = [
            Command(
                guard,
                *("orchestrator", "--etcd", f"http://{etcd.endpoint}"),
                *("--listen", f"127.0.0.1:{port}", "--listen-grpc", "127.0.0.1:0"),
                name=f"door-{number}",
            )
            for number, port in enumerate(self.ports)
        ]

    async def ready(self) -> None:
        for command in self.commands:
            await asyncio.to_thread(command.wait_said, "orchestrator ready")

    def end(self, how: signal.Signals) -> None:
        self.commands[0].process.send_signal(how)


@pytest.fixture
async def doors(etcd: EtcdServer, held: StubAgent) -> AsyncIterator[Doors]:
    with Guard("lite-llm-doors") as guard:
        doors = Doors(guard, etcd)
        await doors.ready()
        yield doors


class Load:
    """Clients that ask again and again until they are told to stop."""

    def __init__(self) -> None:
        self.stopped = asyncio.Event()
        self.answers = 0
        self.broken = 0
        """Streams, after they had begun."""

    async def under(self, doors: Doors, how: signal.Signals) -> None:
        await self.beyond(2 * CLIENTS)
        doors.end(how)
        await asyncio.to_thread(doors.commands[0].wait_ended)
        await self.beyond(self.answers + 2 * CLIENTS)
        self.stopped.set()

    async def beyond(self, answers: int) -> None:
        while self.answers < answers:  # noqa: ASYNC110 - of many clients
            await asyncio.sleep(SECONDS / 5)


async def simple(http: aiohttp.ClientSession, load: Load, stream: bool) -> None:
    """On a new connection each, and without another try."""
    body = {"model": "tiny", "prompt": "x", "stream": stream}
    while not load.stopped.is_set():
        async with http.post("/v1/completions", json=body) as response:
            text = await response.text()
            assert response.status == 200, text
            assert ("[DONE]" if stream else TEXT) in text
        load.answers += 1


async def patient(asking: openai.AsyncOpenAI, load: Load, stream: bool) -> None:
    """On connections that are kept, and asks again as OpenAI's client does by itself."""
    while not load.stopped.is_set():
        if not stream:
            whole = await asking.completions.create(model="tiny", prompt="x")
            assert whole.choices[0].text == TEXT
        else:
            # What has not begun fails here and not below.
            chunks = await asking.completions.create(model="tiny", prompt="x", stream=True)
            try:
                said = [chunk.choices[0].text async for chunk in chunks]
            except Exception:  # of whatever the client's transport is
                load.broken += 1
            else:
                assert "".join(said) == TEXT
        load.answers += 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_no_request_that_was_sent_nothing_fails(doors: Doors, how: signal.Signals) -> None:
    """One that stops fails nothing at all; one that is killed breaks the streams that had begun,
    and those who were sent nothing ask again."""
    load = Load()
    fresh = aiohttp.TCPConnector(limit=0, force_close=True)
    async with (
        asyncio.timeout(SOON),
        balancing(doors.ports) as address,
        aiohttp.ClientSession(f"http://{address}", connector=fresh) as http,
        openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key="none") as asking,
        asyncio.TaskGroup() as tasks,
    ):
        for number in range(CLIENTS):
            tasks.create_task(patient(asking, load, stream=number % 2 == 0))
            if how is signal.SIGTERM:
                tasks.create_task(simple(http, load, stream=number % 2 == 0))
        tasks.create_task(load.under(doors, how))
    assert not load.broken or how is signal.SIGKILL
