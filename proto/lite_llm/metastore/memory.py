"""The metadata store inside one process, for a single machine and for tests."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace

from lite_llm.contracts.errors import LeaseLost
from lite_llm.metastore.lease import Grant, Lease, held_lease
from lite_llm.metastore.store import (
    Absent,
    AtRevision,
    Compare,
    Delete,
    Deleted,
    Entry,
    Event,
    HasValue,
    Listing,
    Operation,
    Put,
    Snapshot,
    SnapshotCause,
    TransactionResult,
    Written,
    check_key,
    check_transaction,
)

HISTORY_EVENTS = 10_000  # a watcher that is further behind gets a snapshot


class MemoryStore:
    """A :class:`Store` that dies with its process. Use it from one event loop."""

    def __init__(self, *, history_events: int = HISTORY_EVENTS) -> None:
        """``history_events``: events kept for watchers; up to twice as many lie in memory."""
        self._history_events = history_events
        self._lease_id = 0
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._changed = asyncio.Event()
        self._epoch = 0
        self._clear()

    def _clear(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._history: list[Written | Deleted] = []
        self._revision = 1  # as a new etcd
        self._compacted = 0

    async def get(self, key: str) -> Entry | None:
        """See :meth:`Store.get`."""
        check_key(key)
        await asyncio.sleep(0)  # here and below: other tasks run as often as with a remote store
        return self._entries.get(key)

    async def list_prefix(self, prefix: str) -> Listing:
        """See :meth:`Store.list_prefix`."""
        await asyncio.sleep(0)
        return Listing(self._below(prefix), self._revision)

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> int:
        """See :meth:`Store.put`."""
        return (await self.transact(when=[], then=[Put(key, value, lease)])).revision

    async def delete(self, key: str) -> bool:
        """See :meth:`Store.delete`."""
        check_key(key)
        await asyncio.sleep(0)
        existed = key in self._entries
        self._commit([Delete(key)])
        return existed

    async def transact(
        self, *, when: Sequence[Compare], then: Sequence[Operation]
    ) -> TransactionResult:
        """See :meth:`Store.transact`."""
        await asyncio.sleep(0)
        check_transaction(when, then)
        if not all(self._holds(compare) for compare in when):
            found = tuple(self._entries.get(compare.key) for compare in when)
            return TransactionResult(False, self._revision, found)
        for operation in then:
            if isinstance(operation, Put) and operation.lease is not None:
                self._check_known(operation.lease)
        self._commit(then)
        return TransactionResult(True, self._revision)

    def lease(self, ttl_seconds: float) -> AbstractAsyncContextManager[Lease]:
        """See :meth:`Store.lease`."""
        return held_lease(self, ttl_seconds)

    @asynccontextmanager
    async def watch(
        self, prefix: str, *, from_revision: int | None = None
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """See :meth:`Store.watch`."""
        async with aclosing(self._events(prefix, from_revision)) as events:
            yield events

    async def grant_lease(self, ttl_seconds: float) -> Grant:
        """See :meth:`Grantor.grant_lease`."""
        self._lease_id += 1
        grant = Grant(self._lease_id, ttl_seconds)
        self._start_timer(grant)
        return grant

    async def renew_lease(self, grant: Grant) -> Grant:
        """See :meth:`Grantor.renew_lease`."""
        if timer := self._timers.pop(grant.lease_id, None):
            timer.cancel()
            self._start_timer(grant)
            return grant
        return replace(grant, ttl_seconds=0.0)

    async def revoke_lease(self, lease_id: int) -> None:
        """See :meth:`Grantor.revoke_lease`."""
        self._end_lease(lease_id)

    def _end_lease(self, lease_id: int) -> None:
        if timer := self._timers.pop(lease_id, None):
            timer.cancel()
            tied = [entry.key for entry in self._entries.values() if entry.lease_id == lease_id]
            self._commit([Delete(key) for key in tied])

    def compact(self, revision: int) -> None:
        """Forget events up to ``revision``; watchers that still need them get a snapshot."""
        self._compacted = max(self._compacted, min(revision, self._revision))
        del self._history[: bisect_left(self._history, self._compacted + 1, key=_revision_of)]

    def wipe(self) -> None:
        """Lose everything, leases too, as when the store's disk is replaced by an empty one."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._clear()
        self._epoch += 1
        self._wake()

    def close(self) -> None:
        """Stop the leases' timers."""
        for timer in self._timers.values():
            timer.cancel()

    def _below(self, prefix: str) -> tuple[Entry, ...]:
        keys = sorted(key for key in self._entries if key.startswith(prefix))
        return tuple(self._entries[key] for key in keys)

    def _holds(self, compare: Compare) -> bool:
        entry = self._entries.get(compare.key)
        match compare:
            case Absent():
                return entry is None
            case AtRevision(_, revision):
                return (entry.mod_revision if entry else 0) == revision
            case HasValue(_, value):
                return entry is not None and entry.value == value

    def _check_known(self, lease: Lease) -> None:
        if lease.id not in self._timers:
            raise LeaseLost("the store no longer knows the lease", remedy="take a new one")

    def _commit(self, operations: Sequence[Operation]) -> None:
        revision = self._revision + 1
        events: list[Written | Deleted] = []
        for operation in operations:
            old = self._entries.get(operation.key)
            match operation:
                case Put(key, value, lease):
                    entry = Entry(
                        key,
                        value,
                        create_revision=old.create_revision if old else revision,
                        mod_revision=revision,
                        version=old.version + 1 if old else 1,
                        lease_id=lease.id if lease else 0,
                    )
                    self._entries[key] = entry
                    events.append(Written(entry))
                case Delete(key) if old:
                    del self._entries[key]
                    events.append(Deleted(key, revision))
        if events:
            self._revision = revision
            self._history += events
            if len(self._history) > 2 * self._history_events:
                self.compact(self._history[-self._history_events].revision)
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _start_timer(self, grant: Grant) -> None:
        self._timers[grant.lease_id] = asyncio.get_running_loop().call_later(
            grant.ttl_seconds, self._end_lease, grant.lease_id
        )

    async def _events(self, prefix: str, from_revision: int | None) -> AsyncGenerator[Event]:
        epoch = self._epoch
        cause = SnapshotCause.START if from_revision is None else None
        wanted = max(1, from_revision or 0)
        while True:
            if cause is None and (epoch != self._epoch or wanted > self._revision + 1):
                cause = SnapshotCause.WIPED
            elif cause is None and wanted <= self._compacted:
                cause = SnapshotCause.COMPACTED
            if cause is not None:
                epoch, wanted = self._epoch, self._revision + 1
                yield Snapshot(self._below(prefix), self._revision, cause)
                cause = None
                continue
            changed, latest = self._changed, self._revision
            for event in self._history[bisect_left(self._history, wanted, key=_revision_of) :]:
                if _key_of(event).startswith(prefix):
                    yield event
            wanted = latest + 1
            if changed is self._changed:
                await changed.wait()


def _key_of(event: Written | Deleted) -> str:
    return event.entry.key if isinstance(event, Written) else event.key


def _revision_of(event: Written | Deleted) -> int:
    return event.revision
