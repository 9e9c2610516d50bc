"""The test server: what the other tests rely on when they maltreat it."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic

import pytest

from lite_llm.contracts.errors import StoreUnavailable
from lite_llm.metastore import open_store
from lite_llm.testing.etcd import REMEDY, EtcdServer, etcd_cluster, etcd_server
from lite_llm.testing.guard import MissingServer
from lite_llm.testing.links import Link, link_to

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    with etcd_server() as server:
        yield server


def revision(server: EtcdServer) -> int:
    return int(server.post("/v3/kv/range", {"key": "AA=="})["header"]["revision"])


def put(server: EtcdServer) -> None:
    server.post("/v3/kv/put", {"key": "AAAA", "value": ""})


def test_data_survive_everything_but_a_wipe() -> None:
    with etcd_server() as server:
        put(server)
        server.restart()
        assert revision(server) == 2
        server.stop()
        server.start()
        assert revision(server) == 2
        server.wipe()
        assert revision(server) == 1


def test_a_paused_server_stays_silent_until_resumed() -> None:
    with etcd_server() as server:
        server.pause()

        async def wait_for_an_answer() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET /version HTTP/1.0\r\n\r\n")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.3)
            server.resume()
            assert await reader.read(1) == b"H"
            writer.close()
            await writer.wait_closed()

        asyncio.run(wait_for_an_answer())


def test_members_share_their_data() -> None:
    with etcd_cluster(3) as members:
        put(members[0])
        assert [revision(member) for member in members] == [2, 2, 2]
        members[0].kill()
        members[1].wait_healthy()
        put(members[1])
        assert revision(members[2]) == 3


def test_what_etcd_refuses_is_raised() -> None:
    with etcd_server() as server, pytest.raises(RuntimeError, match="future revision"):
        server.compact(1000)


def test_a_missing_etcd_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(MissingServer, match=REMEDY), etcd_server():
        pass


def test_a_server_that_can_not_start_shows_its_log() -> None:
    with etcd_server() as server:
        server.kill()
        squatter = socket.create_server(("127.0.0.1", server.port))
        with squatter, pytest.raises(RuntimeError, match="address already in use"):
            server.start()


async def ask(link: Link) -> bytes:
    """What etcd answers through ``link``; nothing if the connection is reset or refused."""
    host, port = link.endpoint.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"GET /version HTTP/1.0\r\n\r\n")
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def test_a_link_forwards_until_cut(etcd: EtcdServer) -> None:
    async with link_to(etcd.port) as link:
        assert b"etcdserver" in await ask(link)
        link.cut()
        assert await ask(link) == b""
        link.restore()
        assert b"etcdserver" in await ask(link)


async def test_a_link_swallows_and_delivers_late(etcd: EtcdServer) -> None:
    async with link_to(etcd.port) as link:
        link.blackhole()
        answer = asyncio.create_task(ask(link))
        done, _ = await asyncio.wait({answer}, timeout=0.2)
        assert not done
        link.restore()
        assert b"etcdserver" in await answer


async def test_a_link_to_nowhere_answers_nothing() -> None:
    async with link_to(1) as link:
        assert await ask(link) == b""


async def test_an_unreachable_store_gives_up_in_time(etcd: EtcdServer) -> None:
    async with link_to(etcd.port) as link:
        link.cut()
        settings = replace(etcd.settings(link.endpoint), call_seconds=1.0)
        async with open_store(settings) as store:
            began = monotonic()
            with pytest.raises(StoreUnavailable):
                await store.get("a")
            assert monotonic() - began < 5
