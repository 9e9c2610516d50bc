"""A watcher of a real etcd misses nothing and repeats nothing, whatever happens to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from lite_llm.contracts.errors import StoreUnavailable
from lite_llm.metastore import (
    Deleted,
    Event,
    Snapshot,
    SnapshotCause,
    Store,
    StoreSettings,
    Written,
    open_store,
)
from lite_llm.testing.etcd import etcd_cluster, etcd_server
from lite_llm.testing.links import link_to

pytestmark = pytest.mark.timeout(90)

END = "~end"  # sorts behind every other key of a test


class Writer:
    """Writes numbered keys for as long as the block runs, and knows which were acknowledged."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._stopping = False
        self._goal = 0
        self._reached = asyncio.Event()
        self.acknowledged: list[str] = []

    async def __aenter__(self) -> Writer:
        self._task = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await self._task

    async def _write(self) -> None:
        number = 0
        while not self._stopping:
            key = f"{self._prefix}{number:06}"
            try:
                await self._store.put(key, b"")
            except StoreUnavailable:
                pass  # perhaps written, perhaps not
            else:
                self.acknowledged.append(key)
                if len(self.acknowledged) >= self._goal:
                    self._reached.set()
            number += 1

    async def wait_progress(self, count: int = 20) -> None:
        """Return when ``count`` more writes were acknowledged."""
        self._goal = len(self.acknowledged) + count
        self._reached.clear()
        await self._reached.wait()


async def until_end(events: AsyncIterator[Event]) -> list[Event]:
    seen: list[Event] = []
    async for event in events:
        if isinstance(event, Written) and event.entry.key.endswith(END):
            return seen
        seen.append(event)
    raise AssertionError("a watch ended by itself")


async def watched(settings: StoreSettings, prefix: str, from_revision: int) -> list[Event]:
    """Everything below ``prefix`` until the key END, by a store of its own."""
    async with (
        open_store(settings) as store,
        store.watch(prefix, from_revision=from_revision) as events,
    ):
        return await until_end(events)


async def check_exactly_once(store: Store, writer: Writer, prefix: str, seen: list[Event]) -> None:
    """``seen`` is exactly what the store holds, each once, in order."""
    entries = (await store.list_prefix(prefix)).entries
    by_revision = sorted(entries, key=lambda entry: entry.mod_revision)
    stored = [entry for entry in by_revision if not entry.key.endswith(END)]
    assert seen == [Written(entry) for entry in stored]
    assert set(writer.acknowledged) <= {entry.key for entry in stored}
    assert len(writer.acknowledged) > 50


async def test_nothing_lost_or_repeated_when_etcd_is_killed_under_writes(prefix: str) -> None:
    with etcd_server() as server:
        async with open_store(server.settings()) as store:
            start = (await store.list_prefix(prefix)).revision + 1
            watching = asyncio.create_task(watched(server.settings(), prefix, start))
            async with Writer(store, prefix) as writer:
                for _ in range(3):
                    await writer.wait_progress()
                    await asyncio.to_thread(server.restart)
                await writer.wait_progress()
            await store.put(prefix + END, b"")
            await check_exactly_once(store, writer, prefix, await watching)


async def test_nothing_lost_or_repeated_when_connections_are_cut(prefix: str) -> None:
    with etcd_server() as server:
        async with open_store(server.settings()) as store, link_to(server.port) as link:
            start = (await store.list_prefix(prefix)).revision + 1
            settings = server.settings(link.endpoint)
            watching = asyncio.create_task(watched(settings, prefix, start))
            async with Writer(store, prefix) as writer:
                for _ in range(10):
                    await writer.wait_progress()
                    link.reset()
                link.cut()
                await writer.wait_progress()
                link.restore()
                await writer.wait_progress()
            await store.put(prefix + END, b"")
            await check_exactly_once(store, writer, prefix, await watching)


async def test_a_silent_network_is_noticed_and_left_for_another_endpoint(prefix: str) -> None:
    with etcd_server() as server:
        async with open_store(server.settings()) as store, link_to(server.port) as link:
            settings = server.settings(link.endpoint, server.endpoint)
            async with open_store(settings) as shaky, shaky.watch(prefix) as events:
                await anext(events)
                link.blackhole()
                await store.put(prefix + "a", b"")
                event = await anext(events)
                assert isinstance(event, Written)
                assert event.entry.key == prefix + "a"
                assert await shaky.get(prefix + "a") is not None


async def test_a_compaction_during_a_cut_gives_a_fresh_snapshot(prefix: str) -> None:
    with etcd_server() as server:
        async with (
            open_store(server.settings()) as store,
            link_to(server.port) as link,
            open_store(server.settings(link.endpoint)) as cut_off,
            cut_off.watch(prefix) as events,
        ):
            await anext(events)
            await store.put(prefix + "a", b"")
            await anext(events)
            link.cut()
            await store.delete(prefix + "a")
            await store.put(prefix + "b", b"2")
            revision = await store.put(prefix + "c", b"")
            server.compact(revision)
            link.restore()
            listing = await store.list_prefix(prefix)
            seen = [event async for event in _through_snapshot(events)]
            assert seen[-1] == Snapshot(listing.entries, listing.revision, SnapshotCause.COMPACTED)
            await store.delete(prefix + "b")
            assert await anext(events) == Deleted(prefix + "b", revision + 1)


async def _through_snapshot(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    async for event in events:
        yield event
        if isinstance(event, Snapshot):
            return


async def test_a_wiped_etcd_is_noticed_told_and_used_on(
    prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    with etcd_server() as server:
        async with open_store(server.settings()) as store, store.watch(prefix) as events:
            await anext(events)
            for number in range(3):
                await store.put(f"{prefix}{number}", b"old")
                await anext(events)
            with caplog.at_level(logging.WARNING):
                await asyncio.to_thread(server.wipe)
                assert await anext(events) == Snapshot((), 1, SnapshotCause.WIPED)
            assert "watch discontinued" in caplog.messages
            revision = await store.put(prefix + "new", b"")
            event = await anext(events)
            assert isinstance(event, Written)
            assert (event.entry.key, event.revision) == (prefix + "new", revision)


@pytest.mark.parametrize("was_empty", [False, True])
async def test_a_wipe_is_noticed_though_the_revision_has_overtaken(
    prefix: str, was_empty: bool
) -> None:
    with etcd_server() as server:
        async with open_store(server.settings()) as store, link_to(server.port) as link:
            await store.put("/elsewhere" if was_empty else prefix + "gone", b"old")
            async with (
                open_store(server.settings(link.endpoint)) as cut_off,
                cut_off.watch(prefix) as events,
            ):
                await anext(events)
                link.cut()
                await asyncio.to_thread(server.wipe)
                for number in range(20):
                    await store.put(f"{prefix}{number:02}", b"new")
                link.restore()
                listing = await store.list_prefix(prefix)
                assert await anext(events) == Snapshot(
                    listing.entries, listing.revision, SnapshotCause.WIPED
                )
                await store.put(prefix + "more", b"")
                assert isinstance(await anext(events), Written)


async def test_a_cluster_goes_on_without_one_member(prefix: str) -> None:
    with etcd_cluster(3) as members:
        settings = members[0].settings(*(member.endpoint for member in members))
        settings = replace(settings, call_seconds=2.0)
        async with open_store(settings) as store:
            start = (await store.list_prefix(prefix)).revision + 1
            watching = asyncio.create_task(watched(settings, prefix, start))
            async with Writer(store, prefix) as writer, store.lease(10) as lease:
                await writer.wait_progress()
                await asyncio.to_thread(members[0].kill)
                await writer.wait_progress()
                await asyncio.to_thread(members[0].start)
                members[1].pause()
                await writer.wait_progress()
                members[1].resume()
                await writer.wait_progress()
                assert lease.is_alive
            await store.put(prefix + END, b"")
            await check_exactly_once(store, writer, prefix, await watching)


async def test_a_cluster_without_majority_is_unavailable(prefix: str) -> None:
    with etcd_cluster(3) as members:
        settings = members[0].settings(*(member.endpoint for member in members))
        async with open_store(replace(settings, call_seconds=1.0)) as hasty:
            await hasty.put(prefix + "a", b"")
            for member in members[1:]:
                await asyncio.to_thread(member.kill)
            with pytest.raises(StoreUnavailable):
                await hasty.get(prefix + "a")
            with pytest.raises(StoreUnavailable):
                await hasty.put(prefix + "a", b"")
            await asyncio.to_thread(members[1].start)
        async with open_store(settings) as store:
            assert await store.get(prefix + "a") is not None


async def test_an_absent_etcd_is_unavailable_within_the_deadline() -> None:
    settings = StoreSettings(endpoints=("127.0.0.1:1",), call_seconds=0.3)
    async with open_store(settings) as store:
        with pytest.raises(StoreUnavailable, match="no member of etcd can be reached"):
            await store.get("a")


async def test_calls_wait_for_a_restart(prefix: str) -> None:
    with etcd_server() as server:
        async with open_store(server.settings()) as store:
            await store.put(prefix + "a", b"")
            server.kill()
            await asyncio.sleep(0.5)  # a write on the line that breaks may have been done
            calls = asyncio.gather(
                store.put(prefix + "b", b""), store.get(prefix + "a"), store.delete(prefix + "a")
            )
            await asyncio.to_thread(server.start)
            await calls
