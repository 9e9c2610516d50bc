"""What every store promises about watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from lite_llm.metastore import (
    Delete,
    Deleted,
    Event,
    Put,
    Snapshot,
    SnapshotCause,
    Store,
    Written,
)

pytestmark = pytest.mark.timeout(60)


async def take(events: AsyncIterator[Event], count: int) -> list[Event]:
    return [await anext(events) for _ in range(count)]


def told(event: Event) -> object:
    """An event without its entry's history."""
    match event:
        case Written(entry):
            return entry.key, entry.value
        case Deleted(key):
            return key
        case Snapshot(entries):
            return {entry.key: entry.value for entry in entries}


async def test_a_watch_begins_with_a_snapshot(store: Store, prefix: str) -> None:
    revision = await store.put(prefix + "a", b"1")
    listing = await store.list_prefix(prefix)
    async with store.watch(prefix) as events:
        assert await anext(events) == Snapshot(listing.entries, revision, SnapshotCause.START)
        await store.put(prefix + "b", b"2")
        await store.delete(prefix + "a")
        assert [told(event) for event in await take(events, 2)] == [
            (prefix + "b", b"2"),
            prefix + "a",
        ]


async def test_a_watch_replays_from_its_revision(store: Store, prefix: str) -> None:
    await store.put(prefix + "a", b"before")
    first = await store.put(prefix + "a", b"1")
    await store.put(prefix + "a", b"2")
    await store.put(prefix + "b", b"")
    await store.delete(prefix + "a")
    async with store.watch(prefix, from_revision=first) as events:
        replayed = await take(events, 4)
    assert [told(event) for event in replayed] == [
        (prefix + "a", b"1"),
        (prefix + "a", b"2"),
        (prefix + "b", b""),
        prefix + "a",
    ]
    revisions = [event.revision for event in replayed]
    assert revisions == [first, first + 1, first + 2, first + 3]


async def test_written_events_carry_the_whole_entry(store: Store, prefix: str) -> None:
    revision = await store.put(prefix + "a", b"1")
    async with store.watch(prefix, from_revision=revision) as events:
        event = await anext(events)
    assert event == Written((await store.list_prefix(prefix)).entries[0])


async def test_other_prefixes_are_silent(store: Store, prefix: str) -> None:
    async with store.watch(prefix + "a/") as events:
        await anext(events)
        await store.put(prefix + "a", b"")
        await store.put(prefix + "a0", b"")
        await store.put(prefix + "a/x", b"")
        assert told(await anext(events)) == (prefix + "a/x", b"")


async def test_a_transaction_arrives_whole(store: Store, prefix: str) -> None:
    await store.put(prefix + "a", b"")
    async with store.watch(prefix) as events:
        await anext(events)
        result = await store.transact(
            when=[], then=[Delete(prefix + "a"), Put(prefix + "b", b"1"), Put(prefix + "c", b"2")]
        )
        arrived = await take(events, 3)
    assert {event.revision for event in arrived} == {result.revision}
    assert {prefix + "a", (prefix + "b", b"1"), (prefix + "c", b"2")} == {
        told(event) for event in arrived
    }


async def test_every_watcher_sees_everything_in_order(store: Store, prefix: str) -> None:
    start = (await store.list_prefix(prefix)).revision

    async def watched() -> list[Event]:
        async with store.watch(prefix, from_revision=start + 1) as events:
            return await take(events, 200)

    watchers = [asyncio.create_task(watched()) for _ in range(3)]
    await asyncio.gather(*(store.put(f"{prefix}{number % 7}", b"") for number in range(200)))
    for events in await asyncio.gather(*watchers):
        assert [event.revision for event in events] == list(range(start + 1, start + 201))


async def test_a_compacted_revision_is_answered_with_a_snapshot(
    store: Store, compact: Callable[[int], None], prefix: str
) -> None:
    first = await store.put(prefix + "a", b"1")
    await store.put(prefix + "a", b"2")
    await store.put(prefix + "b", b"3")
    last = await store.put(prefix + "c", b"4")
    compact(last)
    async with store.watch(prefix, from_revision=first) as events:
        entries = (await store.list_prefix(prefix)).entries
        assert await anext(events) == Snapshot(entries, last, SnapshotCause.COMPACTED)
        await store.put(prefix + "a", b"5")
        assert told(await anext(events)) == (prefix + "a", b"5")


async def test_a_watcher_that_is_up_to_date_does_not_feel_a_compaction(
    store: Store, compact: Callable[[int], None], prefix: str
) -> None:
    async with store.watch(prefix) as events:
        await anext(events)
        for number in range(5):
            revision = await store.put(prefix + "a", b"%d" % number)
            assert told(await anext(events)) == (prefix + "a", b"%d" % number)
            compact(revision)


async def test_a_revision_of_another_history_is_answered_with_a_snapshot(
    store: Store, prefix: str
) -> None:
    revision = await store.put(prefix + "a", b"1")
    async with store.watch(prefix, from_revision=revision + 1000) as events:
        snapshot = await anext(events)
        assert isinstance(snapshot, Snapshot)
        assert (told(snapshot), snapshot.cause) == ({prefix + "a": b"1"}, SnapshotCause.WIPED)
        await store.put(prefix + "a", b"2")
        assert told(await anext(events)) == (prefix + "a", b"2")


async def test_a_watch_from_the_beginning_misses_nothing(store: Store, prefix: str) -> None:
    await store.put(prefix + "a", b"1")
    seen = {}
    async with store.watch(prefix, from_revision=0) as events:
        # On a store that others compacted this is a snapshot, else the first event.
        match await anext(events):
            case Written(entry):
                seen[entry.key] = entry.value
            case Snapshot(entries):
                seen |= {entry.key: entry.value for entry in entries}
    assert seen == {prefix + "a": b"1"}
