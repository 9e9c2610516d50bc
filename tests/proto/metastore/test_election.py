"""One leader at a time, whatever makes it change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from time import monotonic

import pytest

from lite_llm.contracts.errors import StoreUnavailable
from lite_llm.metastore import (
    Absent,
    HasValue,
    MemoryStore,
    Put,
    Store,
    leading,
    open_store,
)
from lite_llm.metastore.lease import Grant
from lite_llm.testing.etcd import EtcdServer, etcd_server
from lite_llm.testing.links import link_to

pytestmark = pytest.mark.timeout(90)

TTL = 1.0
NUM_CHANGES = 20
NUM_CANDIDATES = 3


class Deafened(MemoryStore):
    """Renews leases while it hears; only the leader has one."""

    hears = True

    async def renew_lease(self, grant: Grant) -> Grant:
        if not self.hears:
            raise StoreUnavailable("deaf")
        return await super().renew_lease(grant)

    def deafen(self) -> None:
        self.hears = False

    def listen(self) -> None:
        self.hears = True


@dataclass
class Candidate:
    """Someone who wants to lead, and how to silence and to hear them again."""

    name: str
    store: Store
    silence: Callable[[], None]
    restore: Callable[[], None]


@asynccontextmanager
async def in_memory() -> AsyncIterator[list[Candidate]]:
    store = Deafened()
    yield [
        Candidate(str(number), store, store.deafen, store.listen)
        for number in range(NUM_CANDIDATES)
    ]
    store.close()


@asynccontextmanager
async def behind_links(etcd: EtcdServer) -> AsyncIterator[list[Candidate]]:
    async with AsyncExitStack() as stack:
        candidates = []
        for number in range(NUM_CANDIDATES):
            link = await stack.enter_async_context(link_to(etcd.port))
            store = await stack.enter_async_context(open_store(etcd.settings(link.endpoint)))
            hole = link.blackhole if number % 2 else link.cut
            candidates.append(Candidate(str(number), store, hole, link.restore))
        yield candidates


@dataclass(frozen=True)
class Term:
    """From when until when a candidate believed to lead."""

    name: str
    began: float
    ended: float


@pytest.mark.parametrize("kind", ["memory", "etcd"])
async def test_one_leader_through_twenty_forced_changes(
    kind: str, request: pytest.FixtureRequest, prefix: str
) -> None:
    key = prefix + "leader"
    ttl = TTL if kind == "etcd" else TTL / 2
    terms: list[Term] = []
    leaders: list[str] = []
    done = asyncio.Event()

    async def campaign(candidate: Candidate) -> None:
        while not done.is_set():
            async with leading(
                candidate.store, key, candidate.name.encode(), ttl_seconds=ttl
            ) as leadership:
                began = monotonic()
                leaders.append(candidate.name)
                assert len(leaders) == 1, "two lead at once"
                await asyncio.sleep(0.02)
                if len(terms) % 5 == 4:  # the rest resign
                    candidate.silence()
                    await leadership.wait_lost()
                assert leadership.is_alive is (len(terms) % 5 != 4)
                leaders.remove(candidate.name)
                terms.append(Term(candidate.name, began, monotonic()))
            candidate.restore()
            if len(terms) > NUM_CHANGES:
                done.set()

    async with (
        in_memory() if kind == "memory" else behind_links(request.getfixturevalue("etcd"))
    ) as candidates:
        tasks = [asyncio.create_task(campaign(candidate)) for candidate in candidates]
        finished = asyncio.create_task(done.wait())
        try:
            await asyncio.wait([*tasks, finished], return_when=asyncio.FIRST_COMPLETED)
        finally:
            finished.cancel()
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
    failures = [one for one in results if isinstance(one, Exception)]
    assert not failures
    assert len(terms) > NUM_CHANGES
    assert all(term.ended <= after.began for term, after in pairwise(terms))
    assert len({term.name for term in terms}) > 1


async def test_others_read_who_leads(store: Store, prefix: str) -> None:
    async with leading(store, prefix + "leader", b"me", ttl_seconds=TTL) as leadership:
        entry = await store.get(prefix + "leader")
        assert entry is not None
        assert entry.value == b"me"
        assert entry.mod_revision == leadership.fence.mod_revision
        assert entry.lease_id == leadership.lease.id
    assert await store.get(prefix + "leader") is None


async def test_a_deposed_leader_is_told_and_fenced(store: Store, prefix: str) -> None:
    key = prefix + "leader"
    async with leading(store, key, b"old", ttl_seconds=30) as old:
        heir = asyncio.create_task(_lead_and_write(store, key, prefix + "data"))
        await store.delete(key)
        await old.wait_lost()
        assert not old.is_alive
        await heir
        late = await store.transact(when=[old.fence], then=[Put(prefix + "data", b"stale")])
        assert not late.succeeded
    check = await store.transact(when=[HasValue(prefix + "data", b"fresh")], then=[])
    assert check.succeeded


async def _lead_and_write(store: Store, key: str, data: str) -> None:
    async with leading(store, key, b"new", ttl_seconds=30) as new:
        swap = await store.transact(when=[new.fence, Absent(data)], then=[Put(data, b"fresh")])
        assert swap.succeeded


async def test_an_overwritten_leader_is_told(store: Store, prefix: str) -> None:
    key = prefix + "leader"
    async with leading(store, key, b"old", ttl_seconds=30) as leadership:
        await store.put(key, b"usurper")
        await leadership.wait_lost()


async def test_neighbouring_keys_do_not_matter(store: Store, prefix: str) -> None:
    key = prefix + "leader"
    await store.put(key + "s", b"")
    async with leading(store, key, b"me", ttl_seconds=30) as leadership:
        await store.put(key + "s", b"")
        await store.delete(key + "s")
        await store.put(key + "x", b"")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(leadership.wait_lost(), 0.2)


async def test_leading_outlives_restarts_of_etcd_and_ends_with_its_data(prefix: str) -> None:
    with etcd_server() as server:
        async with (
            open_store(server.settings()) as store,
            leading(store, prefix + "leader", b"me", ttl_seconds=20) as leadership,
        ):
            await asyncio.to_thread(server.restart)
            await store.put(prefix + "x", b"")
            assert (
                await store.transact(when=[leadership.fence], then=[Put(prefix + "y", b"")])
            ).succeeded
            assert leadership.is_alive
            await asyncio.to_thread(server.wipe)
            await leadership.wait_lost()


async def test_a_campaign_waits_for_etcd(prefix: str) -> None:
    with etcd_server() as server:
        server.stop()
        async with open_store(server.settings()) as store:

            async def led() -> bool:
                async with leading(store, prefix + "leader", b"me", ttl_seconds=5) as leadership:
                    return leadership.is_alive

            campaign = asyncio.create_task(led())
            await asyncio.sleep(0.3)
            await asyncio.to_thread(server.start)
            assert await campaign
