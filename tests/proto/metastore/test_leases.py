"""What every store promises about leases, and what holders are told when the network fails."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from lite_llm.contracts.errors import InvalidRequest, LeaseLost, StoreUnavailable
from lite_llm.metastore import Deleted, MemoryStore, Put, Store, open_store
from lite_llm.metastore.etcd import EtcdStore
from lite_llm.metastore.lease import Grant
from lite_llm.testing.etcd import etcd_server
from lite_llm.testing.links import link_to

pytestmark = pytest.mark.timeout(60)

TTL = 1.0  # the least that etcd grants


async def seen_deleted(store: Store, key: str, from_revision: int) -> float:
    """When ``key`` was seen gone, in seconds of the monotonic clock."""
    async with store.watch(key, from_revision=from_revision) as events:
        async for event in events:
            if isinstance(event, Deleted):
                return monotonic()
    raise AssertionError("a watch ended by itself")


async def test_a_lease_is_kept_alive_and_given_back(store: Store, prefix: str) -> None:
    async with store.lease(TTL) as lease:
        await store.transact(
            when=[], then=[Put(prefix + "a", b"", lease), Put(prefix + "b", b"", lease)]
        )
        await store.put(prefix + "stays", b"")
        await asyncio.sleep(2.2 * TTL)
        assert lease.is_alive
        entry = await store.get(prefix + "a")
        assert entry is not None
        assert entry.lease_id == lease.id
    assert not lease.is_alive
    assert lease.remaining_seconds == 0
    left = (await store.list_prefix(prefix)).entries
    assert [entry.key for entry in left] == [prefix + "stays"]


async def test_a_key_put_again_without_the_lease_stays(store: Store, prefix: str) -> None:
    async with store.lease(TTL) as lease:
        await store.put(prefix + "a", b"", lease=lease)
        await store.put(prefix + "a", b"free")
    entry = await store.get(prefix + "a")
    assert entry is not None
    assert entry.value == b"free"


async def test_a_revoked_lease_is_noticed(store: EtcdStore | MemoryStore, prefix: str) -> None:
    async with store.lease(TTL) as lease:
        await store.put(prefix + "a", b"", lease=lease)
        await store.revoke_lease(lease.id)
        with pytest.raises(LeaseLost):
            await store.put(prefix + "b", b"", lease=lease)
        await lease.wait_lost()
        assert not lease.is_alive
        with pytest.raises(LeaseLost):
            lease.check()
    assert (await store.list_prefix(prefix)).entries == ()


async def test_a_lease_that_is_over_can_not_be_used(store: Store, prefix: str) -> None:
    async with store.lease(TTL) as lease:
        pass
    with pytest.raises(LeaseLost):
        await store.put(prefix + "a", b"", lease=lease)
    with pytest.raises(LeaseLost):
        await store.transact(when=[], then=[Put(prefix + "a", b"", lease)])


async def test_revoking_twice_does_no_harm(store: EtcdStore | MemoryStore) -> None:
    grant = await store.grant_lease(TTL)
    await store.revoke_lease(grant.lease_id)
    await store.revoke_lease(grant.lease_id)
    assert (await store.renew_lease(grant)).ttl_seconds <= 0


@pytest.mark.parametrize("ttl", [0.0, -1.0, float("nan"), float("inf")])
async def test_impossible_times_are_refused(store: Store, ttl: float) -> None:
    with pytest.raises(InvalidRequest):
        async with store.lease(ttl):
            pass


async def test_a_failing_block_gives_the_lease_back(store: Store, prefix: str) -> None:
    async def fail() -> None:
        async with store.lease(TTL) as lease:
            await store.put(prefix + "a", b"", lease=lease)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await store.get(prefix + "a") is None


class Deaf(MemoryStore):
    """Renews no lease."""

    async def renew_lease(self, grant: Grant) -> Grant:
        raise StoreUnavailable("deaf")


async def test_a_holder_in_memory_is_told_before_the_key_is_gone(prefix: str) -> None:
    store = Deaf()
    async with store.lease(TTL) as lease:
        revision = await store.put(prefix + "a", b"", lease=lease)
        gone = asyncio.create_task(seen_deleted(store, prefix + "a", revision + 1))
        await lease.wait_lost()
        told = monotonic()
        assert not lease.is_alive
        assert told < await gone


@pytest.mark.parametrize("fault", ["cut", "blackhole"])
async def test_a_holder_cut_off_is_told_before_the_key_is_gone(fault: str, prefix: str) -> None:
    with etcd_server() as server:
        async with (
            link_to(server.port) as link,
            open_store(server.settings(link.endpoint)) as holder,
            open_store(server.settings()) as rival,
            holder.lease(TTL) as lease,
        ):
            revision = await holder.put(prefix + "a", b"", lease=lease)
            gone = asyncio.create_task(seen_deleted(rival, prefix + "a", revision + 1))
            getattr(link, fault)()
            await lease.wait_lost()
            told = monotonic()
            assert not lease.is_alive
            assert told < await gone


async def test_a_holder_is_told_while_etcd_stands_still(prefix: str) -> None:
    with etcd_server() as server:
        async with open_store(server.settings()) as store, store.lease(TTL) as lease:
            revision = await store.put(prefix + "a", b"", lease=lease)
            server.pause()
            await lease.wait_lost()
            assert not lease.is_alive
            server.resume()
            await seen_deleted(store, prefix + "a", revision + 1)
            assert await store.get(prefix + "a") is None


async def test_a_lease_outlives_a_restart_of_etcd(prefix: str) -> None:
    with etcd_server() as server:
        async with open_store(server.settings()) as store, store.lease(20) as lease:
            await store.put(prefix + "a", b"", lease=lease)
            await asyncio.to_thread(server.restart)
            assert await store.get(prefix + "a") is not None
            await store.put(prefix + "b", b"", lease=lease)
            assert lease.is_alive


async def test_a_wiped_etcd_ends_the_lease(prefix: str) -> None:
    with etcd_server() as server:
        async with open_store(server.settings()) as store, store.lease(3 * TTL) as lease:
            await asyncio.to_thread(server.wipe)
            await lease.wait_lost()
            with pytest.raises(LeaseLost):
                await store.put(prefix + "a", b"", lease=lease)
