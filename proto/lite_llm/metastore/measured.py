"""A store that tells how long it takes to answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from time import monotonic

from lite_llm.metastore.lease import Lease
from lite_llm.metastore.store import (
    Compare,
    Entry,
    Event,
    Listing,
    Operation,
    Store,
    TransactionResult,
)
from lite_llm.telemetry import Metrics, names


class MeasuredStore:
    """The :class:`Store` within; answers count, failures don't."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics

    async def get(self, key: str) -> Entry | None:
        with self._timed("get"):
            return await self._store.get(key)

    async def list_prefix(self, prefix: str) -> Listing:
        with self._timed("list"):
            return await self._store.list_prefix(prefix)

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> int:
        with self._timed("put"):
            return await self._store.put(key, value, lease=lease)

    async def delete(self, key: str) -> bool:
        with self._timed("delete"):
            return await self._store.delete(key)

    async def transact(
        self, *, when: Sequence[Compare], then: Sequence[Operation]
    ) -> TransactionResult:
        with self._timed("transact"):
            return await self._store.transact(when=when, then=then)

    def lease(self, ttl_seconds: float) -> AbstractAsyncContextManager[Lease]:
        return self._store.lease(ttl_seconds)

    def watch(
        self, prefix: str, *, from_revision: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        return self._store.watch(prefix, from_revision=from_revision)

    @contextmanager
    def _timed(self, operation: str) -> Iterator[None]:
        began = monotonic()
        yield
        took = self._metrics[names.METADATA_RTT_SECONDS].labels(operation=operation)
        took.observe(monotonic() - began)
