"""Encryption, client certificates and passwords, against an etcd that insists on them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lite_llm.contracts.errors import InvalidSettings, StoreUnavailable
from lite_llm.metastore import (
    Deleted,
    StoreSettings,
    StoreTls,
    Written,
    leading,
    open_store,
)
from lite_llm.metastore.etcd import EtcdStore
from lite_llm.testing.etcd import EtcdServer, EtcdTls, etcd_server

pytestmark = pytest.mark.timeout(60)

PREFIX = "/allowed/"
USER, PASSWORD = "agent", "correct horse"


@pytest.fixture(scope="module")
def guarded() -> Iterator[EtcdServer]:
    """Asks for a client certificate and for a password."""
    with etcd_server(tls=True) as server:
        server.enable_auth(USER, PASSWORD, prefix=PREFIX)
        yield server


@pytest.fixture
def settings(guarded: EtcdServer) -> StoreSettings:
    return guarded.settings(user=USER, password=PASSWORD)


async def test_everything_works_with_certificate_and_password(settings: StoreSettings) -> None:
    async with open_store(settings) as store, store.watch(PREFIX) as events:
        await anext(events)
        async with leading(store, PREFIX + "leader", b"me", ttl_seconds=5) as leadership:
            event = await anext(events)
            assert isinstance(event, Written)
            assert event.entry.value == b"me"
            assert (await store.transact(when=[leadership.fence], then=[])).succeeded
        assert isinstance(await anext(events), Deleted)


async def test_no_client_certificate_no_access(guarded: EtcdServer) -> None:
    assert guarded.tls is not None
    bare = replace(
        guarded.settings(), tls=StoreTls(authority=guarded.tls.authority), call_seconds=0.5
    )
    async with open_store(bare) as store:
        with pytest.raises(StoreUnavailable):
            await store.get(PREFIX + "a")


async def test_another_authority_is_not_trusted(settings: StoreSettings, tmp_path: Path) -> None:
    foreign = replace(settings, tls=EtcdTls.made_in(tmp_path).store_tls(), call_seconds=0.5)
    async with open_store(foreign) as store:
        with pytest.raises(StoreUnavailable):
            await store.get(PREFIX + "a")


@pytest.mark.parametrize(("user", "password"), [(USER, "wrong"), ("nobody", PASSWORD), ("", "")])
async def test_wrong_credentials_are_refused(
    settings: StoreSettings, user: str, password: str
) -> None:
    async with open_store(replace(settings, user=user, password=password)) as store:
        with pytest.raises(InvalidSettings, match=r"login|denies"):
            await store.get(PREFIX + "a")


async def test_what_the_role_does_not_allow_is_denied(settings: StoreSettings) -> None:
    async with open_store(settings) as store:
        with pytest.raises(InvalidSettings, match="denies"):
            await store.get("/elsewhere")
        with pytest.raises(InvalidSettings, match="denies"):
            await store.put("/elsewhere", b"")
        async with store.watch("/elsewhere", from_revision=1) as events:
            with pytest.raises(InvalidSettings, match="denies"):
                await anext(events)
        assert await store.get(PREFIX + "a") is None


async def test_many_calls_log_in_once_and_the_password_stays_hidden(
    settings: StoreSettings,
) -> None:
    assert PASSWORD not in repr(settings)
    async with open_store(settings) as store:
        answers = await asyncio.gather(*(store.get(PREFIX + "a") for _ in range(50)))
    assert answers == [None] * 50


async def test_a_lost_token_is_renewed_by_calls_watches_and_leases() -> None:
    with etcd_server(tls=True) as server:
        server.enable_auth(USER, PASSWORD, prefix=PREFIX)
        async with (
            open_store(server.settings(user=USER, password=PASSWORD)) as store,
            open_store(server.settings(user=USER, password=PASSWORD)) as observer,
            observer.watch(PREFIX) as events,
            store.lease(10) as lease,
        ):
            await anext(events)
            await store.put(PREFIX + "a", b"", lease=lease)
            assert isinstance(await anext(events), Written)
            await asyncio.to_thread(server.restart)  # etcd's simple tokens live in memory
            await store.put(PREFIX + "b", b"", lease=lease)
            event = await anext(events)
            assert isinstance(event, Written)
            assert event.entry.key == PREFIX + "b"
            assert lease.is_alive


@pytest.mark.parametrize("log_index", [5, 5000])
async def test_a_watch_gets_over_a_token_of_another_history(
    settings: StoreSettings, log_index: int
) -> None:
    # A token names a log index, and etcd keeps silent until its log is as long.
    async with open_store(replace(settings, call_seconds=2.0)) as store:
        await store.put(PREFIX + "a", b"")
        assert isinstance(store, EtcdStore)
        store._connection._members[0]._use_token(f"foreign.{log_index}")
        async with store.watch(PREFIX, from_revision=1) as events:
            assert isinstance(await anext(events), Written)
        await store.delete(PREFIX + "a")


async def test_a_wiped_etcd_that_asks_for_no_password_is_used_on() -> None:
    with etcd_server() as server:
        server.enable_auth(USER, PASSWORD, prefix=PREFIX)
        async with open_store(server.settings(user=USER, password=PASSWORD)) as store:
            await store.put(PREFIX + "a", b"")
            await asyncio.to_thread(server.wipe)
            assert await store.get(PREFIX + "a") is None
        async with open_store(server.settings(user=USER, password=PASSWORD)) as store:
            await store.put(PREFIX + "b", b"")
            server.enable_auth(USER, PASSWORD, prefix=PREFIX)
            assert await store.get(PREFIX + "b") is not None
        async with open_store(server.settings()) as store:
            with pytest.raises(InvalidSettings, match="asks for a user and a password"):
                await store.get(PREFIX + "b")


async def test_unreadable_files_are_named(tmp_path: Path) -> None:
    tls = StoreTls(authority=tmp_path / "absent.pem")
    with pytest.raises(InvalidSettings, match=r"absent\.pem can't be read"):
        async with open_store(StoreSettings(endpoints=("localhost:2379",), tls=tls)):
            pass
