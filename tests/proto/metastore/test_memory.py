"""What only the store in memory can show: forgetting by itself, and losing everything."""

from __future__ import annotations

import asyncio

import pytest

from lite_llm.metastore import (
    MemoryStore,
    Snapshot,
    SnapshotCause,
    Written,
)

pytestmark = pytest.mark.timeout(60)


async def test_history_is_bounded_and_the_slow_get_a_snapshot() -> None:
    store = MemoryStore(history_events=10)
    async with store.watch("") as events:
        await anext(events)
        for number in range(100):
            await store.put("a", b"%d" % number)
        event = await anext(events)
        assert isinstance(event, Snapshot)
        assert (event.cause, event.entries[0].value) == (SnapshotCause.COMPACTED, b"99")
        await store.put("a", b"100")
        assert isinstance(await anext(events), Written)


async def test_a_watcher_within_the_history_misses_nothing() -> None:
    store = MemoryStore(history_events=10)
    async with store.watch("") as events:
        await anext(events)
        for _ in range(10):
            revisions = [await store.put("a", b"") for _ in range(10)]
            assert [(await anext(events)).revision for _ in range(10)] == revisions


async def test_a_wiped_store_tells_its_watchers_and_ends_leases() -> None:
    store = MemoryStore()
    async with store.lease(0.5) as lease, store.watch("") as events:
        await store.put("a", b"", lease=lease)
        assert isinstance(await anext(events), Snapshot)
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        store.wipe()
        event = await waiting
        assert isinstance(event, Snapshot)
        assert event.cause is SnapshotCause.WIPED
        assert event.entries == ()
        await store.put("b", b"")
        assert isinstance(await anext(events), Written)
        await lease.wait_lost()


async def test_a_closed_watch_leaves_nothing_behind() -> None:
    store = MemoryStore()
    for _ in range(3):
        async with store.watch("") as events:
            await anext(events)
    assert len(asyncio.all_tasks()) == 1
