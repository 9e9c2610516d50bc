"""A watch on etcd that goes on through restarts, cut connections, compactions and wipes.

Each time it reconnects it proves that etcd's history is still the one it has seen: it reads its
*anchor*, the last entry it knows, at the anchor's revision. An etcd that was emptied can't answer
that read as before, even if it has been written up to a higher revision since.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc.aio
from grpc.aio import AioRpcError

from lite_llm.contracts.errors import InvalidSettings, StoreUnavailable
from lite_llm.metastore.connection import Connection, pause_seconds
from lite_llm.metastore.failures import RevisionUnavailable, Verdict, error_of, verdict_of
from lite_llm.metastore.messages import (
    Message,
    entry_from,
    events_from,
    first_entry,
    get_request,
    list_request,
    newest_request,
    watch_request,
)
from lite_llm.metastore.store import Entry, Event, Snapshot, SnapshotCause, Written

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Anchor:
    """What is known of the prefix as of ``revision``."""

    revision: int
    entry: Entry | None
    """One that was written last; None: there was none."""


class Discontinued(Exception):
    """The events that follow can't be had; a snapshot must stand in for them."""

    def __init__(self, cause: SnapshotCause) -> None:
        super().__init__(cause)
        self.cause = cause


class Watch:
    """One watcher of one prefix."""

    def __init__(self, connection: Connection, prefix: str) -> None:
        self._connection = connection
        self._prefix = prefix
        self._next_revision = 0
        self._anchor: Anchor | None = None

    async def events(self, from_revision: int | None) -> AsyncGenerator[Event]:
        """See :meth:`Store.watch`."""
        cause = SnapshotCause.START if from_revision is None else None
        self._next_revision = max(1, from_revision or 0)  # to etcd, 0 means from now on
        failures = 0
        while True:
            try:
                if cause is not None:
                    snapshot, cause = await self._snapshot(cause), None
                    yield snapshot
                async with aclosing(self._responses()) as responses:
                    async for response in responses:
                        failures = 0
                        for event in events_from(response):
                            yield event
                            self._passed(event)
            except Discontinued as gap:
                cause = gap.cause
                log.warning("watch discontinued", extra=self._fields(cause=str(cause)))
            except (AioRpcError, StoreUnavailable) as error:
                if isinstance(error, AioRpcError) and verdict_of(error) is Verdict.FINAL:
                    raise error_of(error, where=self._prefix) from error
                if failures == 0:
                    log.warning("watch cut, resuming", extra=self._fields(error=repr(error)))
                await asyncio.sleep(pause_seconds(failures))
                failures += 1

    def _passed(self, event: Event) -> None:
        self._next_revision = event.revision + 1
        if isinstance(event, Written):
            self._anchor = Anchor(event.revision, event.entry)

    async def _snapshot(self, cause: SnapshotCause) -> Snapshot:
        answer = await self._connection.call("Range", list_request(self._prefix), repeatable=True)
        entries = tuple(entry_from(kv) for kv in answer.kvs)
        newest = max(entries, key=lambda entry: entry.mod_revision, default=None)
        revision: int = answer.header.revision
        self._anchor = Anchor(newest.mod_revision if newest else revision, newest)
        self._next_revision = revision + 1
        return Snapshot(entries, revision, cause)

    async def _responses(self) -> AsyncGenerator[Message]:
        """Answers, the first once continuity is proven; raises what ends the stream."""
        request = watch_request(self._prefix, self._next_revision)
        async with self._connection.watching(request) as stream:
            token = self._connection.token
            response = await self._read_first(stream)
            await self._prove_continuity()
            while True:
                if response.compact_revision:
                    raise Discontinued(SnapshotCause.COMPACTED)
                if response.canceled:
                    self._judge_refusal(response.cancel_reason, token)
                yield response
                response = await self._read(stream)

    async def _read(self, stream: Any) -> Message:
        response = await stream.read()
        if response is grpc.aio.EOF:
            raise StoreUnavailable("etcd ended the watch", where=self._prefix)
        return response

    async def _read_first(self, stream: Any) -> Message:
        try:
            async with asyncio.timeout(self._connection.call_seconds):
                return await self._read(stream)
        except TimeoutError as error:
            raise StoreUnavailable("etcd did not begin the watch", where=self._prefix) from error

    def _judge_refusal(self, reason: str, token: str | None) -> None:
        # Older releases say so of an outdated token too; the proof has renewed it, if it was one.
        if "permission denied" in reason and token == self._connection.token:
            raise InvalidSettings(
                "etcd denies the watch",
                where=self._prefix,
                remedy="grant the store's user a role that may read the whole prefix",
            )
        raise StoreUnavailable(f"etcd ended the watch: {reason}", where=self._prefix)

    async def _prove_continuity(self) -> None:
        """Raise :class:`Discontinued` unless etcd's history contains what this watch has seen."""
        try:
            if self._anchor is None:
                self._anchor = await self._first_anchor()
            elif await self._read_anchor(self._anchor) != self._anchor.entry:
                raise Discontinued(SnapshotCause.WIPED)
        except RevisionUnavailable as error:
            raise Discontinued(
                SnapshotCause.COMPACTED if error.compacted else SnapshotCause.WIPED
            ) from error

    async def _first_anchor(self) -> Anchor | None:
        seen = self._next_revision - 1
        if seen < 1:
            return None  # nothing has been seen yet, and revision 0 would read the present
        request = newest_request(self._prefix, revision=seen)
        answer = first_entry(await self._connection.call("Range", request, repeatable=True))
        return Anchor(answer.mod_revision if answer else seen, answer)

    async def _read_anchor(self, anchor: Anchor) -> Entry | None:
        if anchor.entry is None:
            request = newest_request(self._prefix, revision=anchor.revision)
        else:
            request = get_request(anchor.entry.key, revision=anchor.revision)
        return first_entry(await self._connection.call("Range", request, repeatable=True))

    def _fields(self, **more: str) -> dict[str, object]:
        return {"prefix": self._prefix, "revision": self._next_revision, **more}
