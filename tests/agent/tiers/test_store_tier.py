"""Ranged GETs from a real HTTP server that misbehaves in every way there is."""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from lite_llm.contracts.errors import Corrupt, Forbidden, InvalidRequest, StoreUnavailable
from lite_llm.contracts.tiers import Medium
from lite_llm.stores import Backoff, StoreSettings, StoreSource, open_store
from lite_llm.tiers import (
    DiskBudget,
    DiskReader,
    DiskTier,
    HostTier,
    Loader,
    LocalSource,
    Phase,
    ReadFailed,
    ShortRead,
)

CONTENT = os.urandom(3_000_000)
HASTY = StoreSettings(
    backoff=Backoff(attempts=4, first_seconds=0.01, longest_seconds=0.02), stall_seconds=0.5
)


class Server:
    """Serves ``files`` by range; each GET first takes the next of ``faults``, "" for none."""

    def __init__(self) -> None:
        self.files = {"w.bin": CONTENT}
        self.faults: deque[str] = deque()
        self.ranges: list[tuple[int, int]] = []
        self.times: list[float] = []
        self.busy = self.most_busy = 0
        self.url = ""

    async def get(self, request: web.Request) -> web.StreamResponse:
        name = request.path.lstrip("/").partition("/")[2]
        if request.method == "HEAD":
            if self.faults and self.faults[0].startswith("503"):
                return web.Response(status=503, headers={"Retry-After": self.faults[0][4:]})
            return web.Response(headers={"Content-Length": str(len(self.files[name]))})
        fault = self.faults.popleft() if self.faults else ""
        self.times.append(asyncio.get_running_loop().time())
        if name not in self.files:
            raise web.HTTPNotFound
        if fault.startswith("503"):
            self.faults.appendleft(fault)  # so that HEAD says the same
            asyncio.get_running_loop().call_later(0.1, self.faults.remove, fault)
            return web.Response(status=503)
        if fault == "403":
            raise web.HTTPForbidden
        if fault == "stall before":
            await asyncio.sleep(1.5)
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            return await self._send(request, self.files[name], fault)
        finally:
            self.busy -= 1

    async def _send(self, request: web.Request, content: bytes, fault: str) -> web.StreamResponse:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["Range"])
        assert match
        start, end = int(match[1]), min(int(match[2]) + 1, len(content))
        if fault == "ignore range":
            return web.Response(body=content)
        self.ranges.append((start, end))
        body = content[start:end]
        if fault == "wrong bytes":
            body = bytes([body[0] ^ 1]) + body[1:]
        claimed = len(content) + (1000 if fault == "claim more" else 0)
        answer = web.StreamResponse(status=206)
        answer.headers["Content-Range"] = f"bytes {start}-{end - 1}/{claimed}"
        answer.content_length = len(body)
        await answer.prepare(request)
        if fault in {"cut", "stall"}:
            await answer.write(body[: len(body) // 2])
            if fault == "stall":
                await asyncio.sleep(1.5)
            assert request.transport
            request.transport.abort()
            return answer
        await answer.write(body)
        return answer


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_get("/{path:.*}", server.get)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/root"
    yield server
    await runner.cleanup()


@pytest.fixture
def store(server: Server) -> StoreSource:
    return open_store(server.url, settings=HASTY)


async def read(store: StoreSource, offset: int = 0, num_bytes: int = len(CONTENT)) -> bytes:
    target = bytearray(num_bytes)
    await store.read("w.bin", offset, memoryview(target))
    return bytes(target)


async def test_ranges_arrive(store: StoreSource, server: Server) -> None:
    assert await read(store) == CONTENT
    assert await read(store, 1234, 99) == CONTENT[1234 : 1234 + 99]
    assert server.ranges == [(0, len(CONTENT)), (1234, 1333)]


@pytest.mark.parametrize("fault", ["stall", "cut"])
async def test_what_had_arrived_is_not_asked_for_again(
    store: StoreSource, server: Server, fault: str
) -> None:
    server.faults += [fault, fault]
    assert await read(store) == CONTENT
    starts = [start for start, _ in server.ranges]
    assert starts == sorted(starts)
    assert len(starts) == 3
    assert starts[1] > 0


async def test_a_stall_before_the_first_byte_is_given_up(
    store: StoreSource, server: Server
) -> None:
    server.faults.append("stall before")
    assert await read(store) == CONTENT


async def test_a_busy_server_is_asked_again_when_it_said(
    store: StoreSource, server: Server
) -> None:
    server.faults.append("503 1")
    assert await read(store) == CONTENT
    assert server.times[1] - server.times[0] >= 1.0


async def test_a_server_that_is_away_too_long_is_given_up_at_once(
    store: StoreSource, server: Server
) -> None:
    server.faults.append("503 3600")
    with pytest.raises(StoreUnavailable, match=r"w\.bin can't be read: .*503"):
        await read(store)
    assert len(server.times) == 1


async def test_patience_ends(store: StoreSource, server: Server) -> None:
    server.faults += ["ignore range"] * 10
    with pytest.raises(StoreUnavailable, match="can't be read"):
        await read(store)
    assert len(server.times) == 4


async def test_what_no_retry_mends_is_told_at_once(store: StoreSource, server: Server) -> None:
    with pytest.raises(ReadFailed, match="does not exist"):
        await store.read("nothing.bin", 0, memoryview(bytearray(1)))
    server.faults.append("403")
    with pytest.raises(Forbidden):
        await read(store)
    assert len(server.times) == 2


async def test_a_file_shorter_than_promised_is_named(store: StoreSource, server: Server) -> None:
    server.files["w.bin"] = CONTENT[:1000]
    with pytest.raises(ShortRead, match=r"w\.bin ends at 1000, before 3000000"):
        await read(store)


async def test_nobody_listening_is_a_store_that_is_away() -> None:
    with pytest.raises(StoreUnavailable):
        await read(open_store("http://127.0.0.1:9/", settings=HASTY))


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="no store is known"):
        open_store("ftp://example.org/x")


# Through the loader: what the store sends is checked, kept and found again.
@pytest.fixture
def served(server: Server, checkpoint: Any) -> Server:
    server.files = dict(checkpoint.content)
    return server


async def assert_complete(load: Any, checkpoint: Any) -> None:
    num_tensors = 0
    async for layer in load.layers():
        for name, view in layer.tensors.items():
            assert view == checkpoint.bytes_of(checkpoint.manifest.tensor_by_name[name].span)
            num_tensors += 1
    assert num_tensors == len(checkpoint.manifest.tensors)


@pytest.fixture
def disk(tmp_path: Path) -> DiskTier:
    return DiskTier({Medium.NVME: DiskBudget(directory=tmp_path / "nvme", num_bytes=16 << 20)})


async def test_a_load_writes_through_and_the_next_one_needs_no_network(
    host: HostTier, reader: DiskReader, disk: DiskTier, served: Server, checkpoint: Any
) -> None:
    # A hasty one would ask twice on a busy machine.
    store = open_store(served.url, settings=StoreSettings(stall_seconds=60))
    async with disk:
        loader = Loader(host, reader, disks=disk)
        async with loader.load(checkpoint.manifest, [store]) as load:
            await assert_complete(load, checkpoint)
            await load.done()
            last = [state async for state in load.progress()][-1]
        assert last.phases[Phase.FETCH].num_bytes == checkpoint.manifest.num_bytes
        assert sum(end - start for start, end in served.ranges) == checkpoint.manifest.num_bytes
        served.files.clear()
        host.clear()
        async with loader.load(checkpoint.manifest, [store]) as load:
            await assert_complete(load, checkpoint)
            last = [state async for state in load.progress()][-1]
        assert last.phases[Phase.READ].num_bytes == checkpoint.manifest.num_bytes


async def test_wrong_bytes_are_fetched_once_more(
    loader: Loader, served: Server, store: StoreSource, checkpoint: Any
) -> None:
    served.faults.append("wrong bytes")
    async with loader.load(checkpoint.manifest, [store]) as load:
        await assert_complete(load, checkpoint)


async def test_bytes_that_stay_wrong_are_reported_with_file_chunk_and_offset(
    loader: Loader, served: Server, store: StoreSource, checkpoint: Any
) -> None:
    damaged = bytearray(checkpoint.content["dense.bin"])
    damaged[70_000] ^= 1
    served.files["dense.bin"] = bytes(damaged)
    async with loader.load(checkpoint.manifest, [store]) as load:
        with pytest.raises(Corrupt, match=r"chunk 1 of dense\.bin \(offset 65536\)"):
            await load.done()


async def test_a_mirror_stands_in_for_a_damaged_and_for_a_missing_origin(
    loader: Loader, served: Server, store: StoreSource, checkpoint: Any
) -> None:
    class Damaged(Server):
        pass

    served.files = {"dense.bin": bytes(len(checkpoint.content["dense.bin"]))}
    good = Damaged()
    good.files = dict(checkpoint.content)
    app = web.Application()
    app.router.add_get("/{path:.*}", good.get)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    mirror = open_store(f"http://127.0.0.1:{runner.addresses[0][1]}/mirror", settings=HASTY)
    async with loader.load(checkpoint.manifest, [store, mirror]) as load:
        await assert_complete(load, checkpoint)
        await load.done()
    await runner.cleanup()


async def test_at_most_as_many_gets_as_slots_run_together(
    host: HostTier, reader: DiskReader, served: Server, store: StoreSource, make_checkpoint: Any
) -> None:
    checkpoint = make_checkpoint(layers=16, experts=0)
    served.files = dict(checkpoint.content)
    async with Loader(host, reader, fetch_slots=3).load(checkpoint.manifest, [store]) as load:
        await load.done()
    assert 1 <= served.most_busy <= 3


async def test_stopping_a_fetch_frees_everything_at_once(
    host: HostTier, loader: Loader, served: Server, checkpoint: Any
) -> None:
    patient = open_store(served.url, settings=StoreSettings(stall_seconds=60))
    served.faults += ["stall"] * 50
    async with loader.load(checkpoint.manifest, [patient]):
        await asyncio.sleep(0.05)
    assert host.arena.used_bytes == 0


async def test_files_without_digests_are_known_by_what_the_store_says(
    loader: Loader, server: Server, store: StoreSource, make_checkpoint: Any
) -> None:
    checkpoint = make_checkpoint(checked=False, digested=False)
    server.files = dict(checkpoint.content)
    async with loader.load(checkpoint.manifest, [store]) as load:
        await assert_complete(load, checkpoint)


async def test_a_local_origin_needs_no_store(
    loader: Loader, checkpoint: Any, tmp_path: Path
) -> None:
    source = LocalSource(checkpoint.write(tmp_path / "m"))
    async with loader.load(checkpoint.manifest, [source]) as load:
        await assert_complete(load, checkpoint)
