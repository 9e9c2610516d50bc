"""What a node must get over while it serves: no etcd, a dead worker, slow readers, a full disk."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc.aio
import psutil
import pytest
import pytest_asyncio
from aiohttp import web

from lite_llm.agent import AgentSettings, RunningAgent, memories, running, workers
from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import StorageFailed, WorkerCrashed
from lite_llm.contracts.keyspace import AgentKey, ResidencyKey, key_of
from lite_llm.metastore import Entry, Snapshot, Store, Written, open_store
from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.testing.checkpoints import Shape, tiny_llama
from lite_llm.testing.etcd import EtcdServer, etcd_server
from lite_llm.wire import Line, error_from, loads, open_channel

if TYPE_CHECKING:
    from lite_llm.proto.v1.agent_pb2_grpc import AgentAsyncStub

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT = 120.0  # seconds; for the machine's worst day
NODE = "node-1"
LEASE = 1.0
OUTAGE = 7 * LEASE  # as a minute is to leases of nine seconds
STREAMS, SLOW = 200, 20
SHAPE = Shape(context=4096)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("checkpoint"), seed=5, shape=SHAPE)


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    with etcd_server() as server:
        yield server


class Node:
    def __init__(self, agent: RunningAgent, stub: AgentAsyncStub, store: Store) -> None:
        self.agent, self.stub, self.store = agent, stub, store

    async def load(self, name: str, uri: str) -> None:
        spec = model_pb2.ModelSpec(ref=ref(name), source=model_pb2.ModelSource(uri=uri))
        try:
            async for _ in self.stub.Load(agent_pb2.LoadRequest(spec=spec)):
                pass
        except grpc.aio.AioRpcError as failure:
            raise error_from(failure, where="agent") from failure

    async def sleep(self, name: str) -> None:
        async for _ in self.stub.Sleep(agent_pb2.SleepRequest(model=ref(name))):
            pass

    async def tokens(self, name: str, count: int = 8) -> list[int]:
        call = self.stub.Generate(iter([start(name, count)]))
        return ids([event async for event in call])

    async def residency_when(self, name: str, state: int) -> agent_pb2.Residency:
        async with asyncio.timeout(WAIT):
            async for report in self.stub.Watch(agent_pb2.AgentStatusRequest()):
                for held in report.residencies:
                    if held.model.name == name and held.state == state:
                        return held
        raise AssertionError("the watch ended")

    async def stored_when(
        self, wanted: Callable[[agent_pb2.AgentStatus], bool] = lambda _: True
    ) -> agent_pb2.AgentStatus:
        key = key_of(AgentKey(NODE))
        async with asyncio.timeout(WAIT), self.store.watch(key) as events:
            async for event in events:
                match event:
                    case Snapshot(entries=[Entry(value=value), *_]) | Written(Entry(value=value)):
                        status = loads(value, agent_pb2.AgentStatus, where=key)
                        if wanted(status):
                            return status
        raise AssertionError("the watch ended")


def ref(name: str) -> model_pb2.ModelRef:
    return model_pb2.ModelRef(namespace="default", name=name)


def start(name: str, count: int, **sampling: Any) -> generate_pb2.GenerateRequest:
    asked = generate_pb2.SamplingParameters(max_tokens=count, ignore_eos=True, **sampling)
    return generate_pb2.GenerateRequest(
        start=generate_pb2.GenerateStart(
            request_id="r", model=ref(name), text="the same", sampling=asked
        )
    )


def ids(events: Sequence[generate_pb2.GenerateEvent]) -> list[int]:
    assert [event.sequence for event in events] == list(range(len(events)))
    assert events[-1].HasField("finished")
    return [token for event in events for token in event.tokens.token_ids]


def worker_of(name: str) -> psutil.Process:
    """The process that has the model's log open."""
    (found,) = [
        child
        for child in psutil.Process().children(recursive=True)
        if f"default.{name}.log" in str(Path(f"/proc/{child.pid}/fd/1").readlink())
    ]
    return found


async def read_to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(
    etcd: EtcdServer, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Node]:
    """Serves ``one`` and ``two``."""
    settings = AgentSettings(
        state_directory=tmp_path_factory.mktemp("agent"),
        node=NODE,
        worker_threads=1,
        kv_bytes=64 << 20,
        heartbeat_seconds=LEASE / 3,
        lease_seconds=LEASE,
    )
    async with AsyncExitStack() as opened:
        store = await opened.enter_async_context(open_store(etcd.settings()))
        agent = await opened.enter_async_context(running(settings, store))
        channel = await opened.enter_async_context(open_channel(agent.grpc_address))
        node = Node(agent, AgentStub(channel), store)
        for name in ("one", "two"):
            await node.load(name, str(checkpoint))
        yield node


async def test_two_hundred_streams_of_which_twenty_are_read_by_nobody(node: Node) -> None:
    expected = await node.tokens("one")
    line = Line(node.stub)
    slow_start = start("one", 50, logprobs=100)  # more bytes than a connection lets wait
    slow_expected = ids([event async for event in node.stub.Generate(iter([slow_start]))])

    async def quick() -> None:
        with line.generation(start("one", 8)) as generation:
            events = [event async for events in generation for event in events]
        assert ids(events) == expected

    async with asyncio.timeout(WAIT), AsyncExitStack() as opened:
        opened.callback(line.close)
        slow = [opened.enter_context(line.generation(slow_start)) for _ in range(SLOW)]
        unread = [aiter(generation) for generation in slow]
        firsts = [await anext(events) for events in unread]
        await asyncio.gather(*(quick() for _ in range(STREAMS - SLOW)))
        for first, rest in zip(firsts, unread, strict=True):
            events = [*first, *[event async for events in rest for event in events]]
            assert ids(events) == slow_expected


async def test_kill_9_of_a_worker_harms_no_stream_of_another(node: Node) -> None:
    expected = await node.tokens("two", 150)
    other = asyncio.create_task(node.tokens("two", 150))
    call = node.stub.Generate(iter([start("one", 4000)]))
    for _ in range(3):
        await call.read()
    worker = worker_of("one")
    recovering = asyncio.create_task(node.residency_when("one", model_pb2.MODEL_STATE_RECOVERING))
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await asyncio.wait_for(read_to_the_end(call), WAIT)
    assert isinstance(error_from(failure.value, where="agent"), WorkerCrashed)
    assert "SIGKILL" in (await recovering).reason
    assert await other == expected
    await node.residency_when("one", model_pb2.MODEL_STATE_ACTIVE)
    assert await node.tokens("one", 8) == (await node.tokens("one", 8))


async def test_without_etcd_it_serves_and_says_so_and_registers_again(
    node: Node, etcd: EtcdServer, checkpoint: Path
) -> None:
    expected = await node.tokens("two", 150)
    before = await node.stored_when()
    running_stream = asyncio.create_task(node.tokens("two", 150))
    await asyncio.to_thread(etcd.kill)
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + OUTAGE
    # All that a node does for its clients goes on: streams, loads, sleep and wake, unload.
    assert await running_stream == expected
    await node.load("three", str(checkpoint))
    assert await node.tokens("three", 150) == expected
    await node.sleep("three")
    assert await node.tokens("three", 150) == expected
    await node.stub.Unload(agent_pb2.UnloadRequest(model=ref("three")))
    while loop.time() < ends_at:
        assert len(await node.tokens("two")) == 8
    report = await node.stub.Status(agent_pb2.AgentStatusRequest())
    assert not report.status.health.healthy
    assert report.status.health.reason
    async with (
        aiohttp.ClientSession(f"http://{node.agent.http_address}") as http,
        http.get("/readyz") as answer,
    ):
        assert answer.status == 200
        assert (await answer.text()).startswith("ok, but ")
    await asyncio.to_thread(etcd.start)
    heartbeat = report.status.heartbeat
    after = await node.stored_when(lambda status: status.heartbeat > heartbeat)
    assert after.incarnation == before.incarnation
    assert after.health.healthy
    held = {name: ResidencyKey(ModelRef("default", name), NODE) for name in ("two", "three")}
    assert await node.store.get(key_of(held["two"])) is not None
    assert await node.store.get(key_of(held["three"])) is None


async def test_a_full_disk_takes_no_model_that_serves_and_none_that_lies_elsewhere(
    node: Node, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await node.tokens("two")

    def full(*_: object, **__: object) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with AsyncExitStack() as opened:
        app = web.Application()
        app.router.add_get("/{name}", partial(served, checkpoint))
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        opened.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        distant = f"http://127.0.0.1:{runner.addresses[0][1]}"
        with monkeypatch.context() as disk:
            disk.setattr(os, "pwrite", full)
            disk.setattr(memories, "write_published", full)
            disk.setattr(workers, "note", full)
            with pytest.raises(StorageFailed, match="disk"):
                await node.load("distant", distant)
            assert await node.tokens("two") == expected
            await node.load("local", str(checkpoint))
            assert await node.tokens("local") == expected
        await node.load("distant", distant)  # there is room again
        assert await node.tokens("distant") == expected
        for name in ("local", "distant"):
            await node.stub.Unload(agent_pb2.UnloadRequest(model=ref(name)))


async def served(root: Path, request: web.Request) -> web.StreamResponse:
    path = root / request.match_info["name"]
    if not path.is_file():
        raise web.HTTPNotFound
    content = path.read_bytes()
    headers = {"ETag": '"1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
    if request.method == "HEAD":
        return web.Response(headers={**headers, "Content-Length": str(len(content))})
    span = request.http_range
    first, part = span.start or 0, content[span]
    headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
    return web.Response(status=206, body=part, headers=headers)
