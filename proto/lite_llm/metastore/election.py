"""Leader election on top of any store: one key, tied to the lease of whoever leads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from lite_llm.contracts.errors import LeaseLost, StoreUnavailable
from lite_llm.metastore.lease import Lease, stop
from lite_llm.metastore.store import Absent, AtRevision, Deleted, Put, Snapshot, Store, Written

RETRY_SECONDS = 0.2  # between campaigns while the store is away

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Leadership:
    """Held by at most one at a time, for as long as :attr:`is_alive`."""

    lease: Lease
    fence: AtRevision
    """Put it among the conditions of a transaction and a former leader can't write."""

    @property
    def is_alive(self) -> bool:
        """True while nobody else leads."""
        return self.lease.is_alive

    async def wait_lost(self) -> None:
        """Return when the leadership is over, before another can have it."""
        await self.lease.wait_lost()


@asynccontextmanager
async def leading(
    store: Store, key: str, holder: bytes, *, ttl_seconds: float
) -> AsyncIterator[Leadership]:
    """Wait until elected, lead while the block runs, then resign.

    ``holder`` is what others read at ``key``. A leader that falls silent is replaced after
    ``ttl_seconds``. The block is not interrupted when leadership is lost: race it against
    :meth:`Leadership.wait_lost`, and fence what it writes. Deleting ``key`` by hand forces a
    change; only then, and when the store is emptied in use, does the leader hear of it afterwards.
    """
    while True:
        async with AsyncExitStack() as stack:
            try:
                await _wait_vacant(store, key)
                leadership = await _campaign(stack, store, key, holder, ttl_seconds)
            except (StoreUnavailable, LeaseLost) as error:
                log.warning("campaign interrupted", extra={"key": key, "error": repr(error)})
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if leadership is None:
                continue
            log.info("elected", extra={"key": key, "revision": leadership.fence.mod_revision})
            stack.push_async_callback(stop, asyncio.create_task(_depose(store, leadership)))
            yield leadership
        return


async def _campaign(
    stack: AsyncExitStack, store: Store, key: str, holder: bytes, ttl_seconds: float
) -> Leadership | None:
    lease = await stack.enter_async_context(store.lease(ttl_seconds))
    result = await store.transact(when=[Absent(key)], then=[Put(key, holder, lease)])
    return Leadership(lease, AtRevision(key, result.revision)) if result.succeeded else None


async def _wait_vacant(store: Store, key: str) -> None:
    async with store.watch(key) as events:
        async for event in events:
            match event:
                case Snapshot(entries) if all(entry.key != key for entry in entries):
                    return
                case Deleted(deleted) if deleted == key:
                    return


async def _depose(store: Store, leadership: Leadership) -> None:
    """End the leadership as soon as its key is seen gone or rewritten, or can't be seen."""
    try:
        await _wait_overthrown(store, leadership.fence)
    except Exception:  # who can't see the key must not think that it leads
        leadership.lease.forfeit()
        raise
    log.warning("deposed", extra={"key": leadership.fence.key})
    leadership.lease.forfeit()


async def _wait_overthrown(store: Store, fence: AtRevision) -> None:
    async with store.watch(fence.key, from_revision=fence.mod_revision + 1) as events:
        async for event in events:
            match event:
                case Written(entry) if entry.key == fence.key:
                    return
                case Deleted(key) if key == fence.key:
                    return
                case Snapshot(entries) if all(
                    AtRevision(entry.key, entry.mod_revision) != fence for entry in entries
                ):
                    return
