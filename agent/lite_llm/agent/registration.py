"""The agent's own keys in the metadata store, under its lease: who it is and what it holds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from lite_llm.agent.changes import Changes
from lite_llm.agent.reports import Reporter
from lite_llm.agent.residency import without_counts
from lite_llm.agent.settings import AgentSettings
from lite_llm.contracts.errors import Conflict, Corrupt, LeaseLost, LiteLLMError
from lite_llm.contracts.keyspace import AgentKey, ResidencyKey, key_of
from lite_llm.metastore import Absent, AtRevision, Entry, Lease, Put, Store
from lite_llm.proto.v1 import agent_pb2
from lite_llm.wire import dumps, loads, ref_from_proto

CALM_SECONDS = 0.2  # between writes: the progress of a load would else be one write a layer

log = structlog.get_logger(__name__)


class Registration:
    """Writes what :meth:`Reporter.report` says: every heartbeat, and soon after a change."""

    def __init__(
        self, store: Store, settings: AgentSettings, reporter: Reporter, changes: Changes
    ) -> None:
        self._store = store
        self._settings = settings
        self._reporter = reporter
        self._changes = changes

    async def run(self) -> None:
        """Register, and again whenever the lease is lost; while the store is away, keep trying."""
        while True:
            try:
                async with self._store.lease(self._settings.lease_seconds) as lease:
                    await self._claim(lease)
                    log.info("agent registered", node=self._settings.node, lease=lease.id)
                    await self._keep(lease)
            except Exception as error:  # of any kind: an agent that falls silent is lost
                self._note(f"not registered: {error}")
                await asyncio.sleep(self._settings.heartbeat_seconds)

    async def _claim(self, lease: Lease) -> None:
        """Take the node's key; :class:`Conflict` while another agent goes by the same name.

        Two that overwrote each other would send requests to whichever wrote last.
        """
        key = key_of(AgentKey(self._settings.node))
        found = await self._store.get(key)
        free = AtRevision(key, found.mod_revision) if found else Absent(key)
        if found is None or incarnation_of(found) == self._reporter.report().status.incarnation:
            self._note("")  # this very write ends what was wrong, so it must not tell of it
            claim = [Put(key, dumps(self._reporter.report().status), lease)]
            if (await self._store.transact(when=[free], then=claim)).succeeded:
                return
        raise Conflict(
            f"another agent is registered as {self._settings.node}",
            where=self._settings.node,
            remedy="give every agent a node name of its own; one that died is gone in seconds",
        )

    async def _keep(self, lease: Lease) -> None:
        loop, told = asyncio.get_running_loop(), dict[str, agent_pb2.Residency]()
        next_beat = loop.time()
        while lease.is_alive:
            seen = self._changes.version
            due = loop.time() >= next_beat
            if due:
                self._reporter.heartbeat += 1
                next_beat = loop.time() + self._settings.heartbeat_seconds
            try:
                await self._write(lease, told, everything=due)
                self._note("")
            except LeaseLost:
                break
            except LiteLLMError as error:
                told.clear()
                self._note(f"the metadata store does not take writes: {error}")
            await asyncio.sleep(CALM_SECONDS)
            await self._wait(lease, seen, next_beat - loop.time())
        self._note("the lease was lost")

    async def _write(
        self, lease: Lease, told: dict[str, agent_pb2.Residency], *, everything: bool
    ) -> None:
        """Residencies first, so that an agent that is seen is seen with what it holds."""
        report = self._reporter.report()
        current = {
            key_of(ResidencyKey(ref_from_proto(residency.model), residency.node)): residency
            for residency in report.residencies
        }
        for key, residency in current.items():
            known = told.get(key)
            if everything or known is None or without_counts(known) != without_counts(residency):
                await self._store.put(key, dumps(residency), lease=lease)
                told[key] = residency
        for key in sorted(told.keys() - current.keys()):
            await self._store.delete(key)
            del told[key]
        if everything:
            key = key_of(AgentKey(self._settings.node))
            await self._store.put(key, dumps(report.status), lease=lease)

    async def _wait(self, lease: Lease, seen: int, seconds: float) -> None:
        """Until something changes, the lease is lost, or the heartbeat is due."""
        waits = [
            asyncio.ensure_future(self._changes.beyond(seen)),
            asyncio.ensure_future(lease.wait_lost()),
        ]
        try:
            await asyncio.wait(
                waits, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()

    def _note(self, trouble: str) -> None:
        if trouble != self._reporter.trouble:
            self._reporter.trouble = trouble
            (log.warning if trouble else log.info)("registration", reason=trouble or "well")
            self._changes.notify()


def incarnation_of(entry: Entry) -> str:
    """Of the agent that wrote ``entry``; empty if that can't be read."""
    try:
        return loads(entry.value, agent_pb2.AgentStatus, where=entry.key).incarnation
    except Corrupt:
        return ""


@asynccontextmanager
async def registered(registration: Registration) -> AsyncIterator[None]:
    """Keep the agent registered while the block runs; leaving it gives the lease back at once."""
    task = asyncio.create_task(registration.run(), name="registration")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
