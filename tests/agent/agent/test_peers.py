"""Agents download from each other: the origin is asked for each byte once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from lite_llm.agent import AgentSettings, running
from lite_llm.checkpoint import ConvertOptions, convert
from lite_llm.contracts.keyspace import LEADERS
from lite_llm.metastore import MemoryStore, Store, StoreSettings, open_store
from lite_llm.proto.v1 import agent_pb2, model_pb2
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.testing.checkpoints import Shape, tiny_llama
from lite_llm.wire import open_channel

if TYPE_CHECKING:
    from lite_llm.proto.v1.agent_pb2_grpc import AgentAsyncStub

WAIT = 60.0
SPEC = model_pb2.ModelSpec(ref=model_pb2.ModelRef(namespace="default", name="tiny"))


class Origin:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.sent = 0
        self.url = ""

    async def get(self, request: web.Request) -> web.StreamResponse:
        path = self.root / request.match_info["path"]
        if not path.is_file():
            raise web.HTTPNotFound
        content = path.read_bytes()
        headers = {"ETag": '"1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(content))})
        start = request.http_range.start or 0
        part = content[request.http_range]
        if path.suffix == ".bin":
            await asyncio.sleep(1.0)  # long enough that the other agent asks meanwhile
            self.sent += len(part)
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        return web.Response(status=206, body=part, headers=headers)


@pytest.fixture
async def origin(tmp_path: Path) -> AsyncIterator[Origin]:
    plain = tiny_llama(tmp_path / "plain", seed=1, shape=Shape(hidden=256, ffn=1024), shards=2)
    for _ in convert(plain, tmp_path / "models", ConvertOptions(model="tiny")):
        pass
    origin = Origin(tmp_path / "models")
    app = web.Application()
    app.router.add_get("/{path:.*}", origin.get)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    origin.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield origin
    await runner.cleanup()


@asynccontextmanager
async def agent_in(state: Path, store: Store) -> AsyncIterator[AgentAsyncStub]:
    settings = AgentSettings(
        state_directory=state, node=state.name, prefork=False, heartbeat_seconds=0.3
    )
    async with running(settings, store) as agent, open_channel(agent.grpc_address) as channel:
        yield AgentStub(channel)


async def prefetch(stub: AgentAsyncStub, url: str) -> list[str]:
    spec = model_pb2.ModelSpec()
    spec.CopyFrom(SPEC)
    spec.source.uri = url
    request = agent_pb2.LoadRequest(spec=spec, target=model_pb2.MEDIUM_DRAM)
    return [step.message async for step in stub.Load(request)]


async def test_one_download_from_the_origin(origin: Origin, tmp_path: Path) -> None:
    weights = sum(path.stat().st_size for path in origin.root.glob("*.bin"))
    async with asyncio.timeout(WAIT), AsyncExitStack() as agents:
        store = await agents.enter_async_context(open_store(StoreSettings()))
        stubs = [
            await agents.enter_async_context(agent_in(tmp_path / f"node-{n}", store))
            for n in range(3)
        ]
        # Two at the same time, and one after: who comes second asks who came first.
        told = await asyncio.gather(*(prefetch(stub, origin.url) for stub in stubs[:2]))
        assert all(words[-1] == "warm: in memory" for words in told)
        assert any("fetching" in message for words in told for message in words)
        await prefetch(stubs[2], origin.url)
        assert origin.sent == weights
        assert (await store.list_prefix(LEADERS)).entries == ()
        report = await stubs[2].Status(agent_pb2.AgentStatusRequest())
        (held,) = report.residencies
        assert held.nearest == model_pb2.MEDIUM_DRAM
        assert len(held.checkpoint_digest) == 64
        assert report.status.media[1].used_bytes > weights


async def test_without_the_store_the_origin_is_asked(origin: Origin, tmp_path: Path) -> None:
    store = MemoryStore()
    async with asyncio.timeout(WAIT), agent_in(tmp_path / "node-1", store) as stub:
        store.close()
        assert (await prefetch(stub, origin.url))[-1] == "warm: in memory"
    assert origin.sent > 0
