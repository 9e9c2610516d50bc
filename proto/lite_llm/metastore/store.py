"""The one interface to the metadata store, and the values that cross it.

Keys are text, values are bytes. Every write gets a *revision*, a number that grows by one with each
transaction of the whole store. What entries, transactions and revisions mean follows etcd's v3 API
(https://etcd.io/docs/v3.5/learning/api/).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from lite_llm.contracts.errors import InvalidRequest
from lite_llm.metastore.lease import Lease

MAX_OPERATIONS = 128  # etcd's own default, --max-txn-ops
MAX_WRITE_BYTES = 1 << 20  # etcd refuses requests of 1.5 MiB; the rest is room for keys and framing


@dataclass(frozen=True, slots=True)
class Entry:
    """One key as it stood at a revision."""

    key: str
    value: bytes
    create_revision: int
    """Revision at which the key last came into being."""
    mod_revision: int
    """Revision of the last write."""
    version: int
    """Number of writes since it came into being, from 1."""
    lease_id: int = 0
    """Lease with which the entry disappears; 0: it stays."""


@dataclass(frozen=True, slots=True)
class Listing:
    """All entries below a prefix, sorted by key, as they stood at ``revision``."""

    entries: tuple[Entry, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Absent:
    """Holds if ``key`` does not exist."""

    key: str


@dataclass(frozen=True, slots=True)
class AtRevision:
    """Holds if ``key`` was last written at ``mod_revision``."""

    key: str
    mod_revision: int


@dataclass(frozen=True, slots=True)
class HasValue:
    """Holds if ``key`` exists with exactly ``value``."""

    key: str
    value: bytes


Compare = Absent | AtRevision | HasValue


@dataclass(frozen=True, slots=True)
class Put:
    """Write ``value``, to disappear with ``lease`` if one is given."""

    key: str
    value: bytes
    lease: Lease | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove ``key`` if it exists."""

    key: str


Operation = Put | Delete


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """What became of a transaction."""

    succeeded: bool
    revision: int
    """Of the store, after the transaction."""
    found: tuple[Entry | None, ...] = ()
    """If it failed: the compared keys as they stood, in the order of the comparisons."""


@dataclass(frozen=True, slots=True)
class Written:
    """``entry`` was put."""

    entry: Entry

    @property
    def revision(self) -> int:
        """Of the write."""
        return self.entry.mod_revision


@dataclass(frozen=True, slots=True)
class Deleted:
    """``key`` was deleted, or its lease ended."""

    key: str
    revision: int


class SnapshotCause(StrEnum):
    """Why a watcher gets the whole prefix."""

    START = "start"
    """The watch asked for it, by naming no revision."""
    COMPACTED = "compacted"
    """The store no longer has the events between."""
    WIPED = "wiped"
    """The store's history is not the one watched so far: it was emptied, restored or replaced."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole prefix at ``revision``: what is not in it no longer exists."""

    entries: tuple[Entry, ...]
    revision: int
    cause: SnapshotCause


Event = Written | Deleted | Snapshot


class Store(Protocol):
    """A small, consistent, watched key-value store.

    Reads are linearizable. Every call may raise ``StoreUnavailable``, after which a write may or
    may not have happened; ``InvalidSettings`` when the store refuses the credentials;
    ``InvalidRequest`` for what no store would take.
    """

    async def get(self, key: str) -> Entry | None:
        """The entry at ``key``, or None."""
        ...

    async def list_prefix(self, prefix: str) -> Listing:
        """Every entry whose key starts with ``prefix``, at one revision."""
        ...

    async def put(self, key: str, value: bytes, *, lease: Lease | None = None) -> int:
        """Write unconditionally and return the revision; ``LeaseLost`` if ``lease`` is over."""
        ...

    async def delete(self, key: str) -> bool:
        """Remove ``key``; False if it was not there."""
        ...

    async def transact(
        self, *, when: Sequence[Compare], then: Sequence[Operation]
    ) -> TransactionResult:
        """If all of ``when`` hold, do all of ``then`` at one revision; else do nothing.

        ``LeaseLost`` if the lease of a put is over.
        """
        ...

    def lease(self, ttl_seconds: float) -> AbstractAsyncContextManager[Lease]:
        """Hold a lease, kept alive, while the block runs; at its end what is tied to it goes.

        The store may grant more than ``ttl_seconds``, never less; etcd grants whole seconds.
        """
        ...

    def watch(
        self, prefix: str, *, from_revision: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Every event below ``prefix`` with ``revision >= from_revision``, once and in order.

        Without ``from_revision`` it begins with a :class:`Snapshot`. It goes on through outages of
        the store; where events can't be had any more, a :class:`Snapshot` stands in their place.
        """
        ...


def check_transaction(when: Sequence[Compare], then: Sequence[Operation]) -> None:
    """Raise what is wrong with a transaction before it is sent: both stores refuse the same ones.

    ``InvalidRequest`` for an empty key, one written twice, too many operations or too many bytes;
    ``LeaseLost`` for a put under a lease that is over.
    """
    for compare in when:
        check_key(compare.key)
    size = 0
    for operation in then:
        check_key(operation.key)
        if isinstance(operation, Put):
            size += len(operation.value)
            if operation.lease is not None:
                operation.lease.check()
    check_size(size)
    if len({operation.key for operation in then}) < len(then):
        raise InvalidRequest("a transaction writes a key twice", where="then")
    if max(len(when), len(then)) > MAX_OPERATIONS:
        raise InvalidRequest(
            f"a transaction has more than {MAX_OPERATIONS} operations", remedy="split it"
        )


def check_key(key: str) -> None:
    """``InvalidRequest`` for an empty key."""
    if not key:
        raise InvalidRequest("a key is empty", where="key", remedy="give it at least one character")


def check_size(num_bytes: int) -> None:
    """``InvalidRequest`` for values that are too large to be written at once."""
    if num_bytes > MAX_WRITE_BYTES:
        raise InvalidRequest(
            f"{num_bytes} bytes are too many for the metadata store",
            where="value",
            remedy=f"write at most {MAX_WRITE_BYTES} bytes at once",
        )
