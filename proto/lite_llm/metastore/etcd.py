"""The metadata store in an etcd cluster."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

from lite_llm.contracts.errors import LeaseLost
from lite_llm.metastore.connection import Connection
from lite_llm.metastore.lease import Grant, Lease, held_lease
from lite_llm.metastore.messages import (
    delete_request,
    entry_from,
    first_entry,
    get_request,
    grant_from,
    grant_request,
    list_request,
    put_request,
    renew_request,
    result_from,
    revoke_request,
    txn_request,
)
from lite_llm.metastore.store import (
    Compare,
    Entry,
    Event,
    Listing,
    Operation,
    TransactionResult,
    check_key,
    check_size,
    check_transaction,
)
from lite_llm.metastore.watch import Watch

RENEWAL_TRIES = 4  # in one lease's time, if a member leaves each unanswered


class EtcdStore:
    """A :class:`Store` in etcd 3.4 or newer."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def get(self, key: str) -> Entry | None:
        """See :meth:`Store.get`."""
        check_key(key)
        return first_entry(await self._connection.call("Range", get_request(key), repeatable=True))

    async def list_prefix(self, prefix: str) -> Listing:
        """See :meth:`Store.list_prefix`."""
        answer = await self._connection.call("Range", list_request(prefix), repeatable=True)
        return Listing(tuple(entry_from(kv) for kv in answer.kvs), answer.header.revision)

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> int:
        """See :meth:`Store.put`."""
        check_key(key)
        check_size(len(value))
        if lease is not None:
            lease.check()
        request = put_request(key, value, lease.id if lease else 0)
        answer = await self._connection.call("Put", request, repeatable=False)
        revision: int = answer.header.revision
        return revision

    async def delete(self, key: str) -> bool:
        """See :meth:`Store.delete`."""
        check_key(key)
        answer = await self._connection.call("DeleteRange", delete_request(key), repeatable=False)
        return bool(answer.deleted)

    async def transact(
        self, *, when: Sequence[Compare], then: Sequence[Operation]
    ) -> TransactionResult:
        """See :meth:`Store.transact`."""
        check_transaction(when, then)
        answer = await self._connection.call("Txn", txn_request(when, then), repeatable=False)
        return result_from(answer)

    def lease(self, ttl_seconds: float) -> AbstractAsyncContextManager[Lease]:
        """See :meth:`Store.lease`."""
        return held_lease(self, ttl_seconds)

    @asynccontextmanager
    async def watch(
        self, prefix: str, *, from_revision: int | None = None
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """See :meth:`Store.watch`."""
        async with aclosing(Watch(self._connection, prefix).events(from_revision)) as events:
            yield events

    async def grant_lease(self, ttl_seconds: float) -> Grant:
        """See :meth:`Grantor.grant_lease`."""
        request = grant_request(math.ceil(ttl_seconds))
        return grant_from(await self._connection.call("LeaseGrant", request, repeatable=True))

    async def renew_lease(self, grant: Grant) -> Grant:
        """See :meth:`Grantor.renew_lease`."""
        return grant_from(
            await self._connection.renew(
                renew_request(grant.lease_id), seconds=grant.ttl_seconds / RENEWAL_TRIES
            )
        )

    async def revoke_lease(self, lease_id: int) -> None:
        """See :meth:`Grantor.revoke_lease`."""
        try:
            await self._connection.call("LeaseRevoke", revoke_request(lease_id), repeatable=True)
        except LeaseLost:
            return  # it was over already
