"""Other agents as mirrors: one download from the origin per cluster, and the rest among peers.

Whoever first takes a checkpoint's key in the metadata store fetches it from the origin; the others
ask that agent, which answers as the bytes come. Without the store everybody asks the origin.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

import grpc.aio
import structlog

from lite_llm.agent.settings import AgentSettings
from lite_llm.contracts import LiteLLMError, Medium
from lite_llm.contracts.errors import StorageFailed
from lite_llm.contracts.keyspace import AGENTS, RESIDENCY, LeaderKey, key_of
from lite_llm.metastore import Absent, Put, Store
from lite_llm.proto.v1.agent_pb2 import AgentStatus, FetchChunksRequest, Residency
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.tiers import Source
from lite_llm.wire import closing_call, error_from, loads, open_channel
from lite_llm.wire.values import medium_from_proto

if TYPE_CHECKING:
    from lite_llm.proto.v1.agent_pb2_grpc import AgentAsyncStub

MOST_PEERS: Final = 3  # asked in turn before the origin
SILENT_SECONDS: Final = 30.0  # a peer that has not got a chunk by then is no help

log = structlog.get_logger(__name__)


class PeerSource:
    """One checkpoint on another agent (see :class:`lite_llm.tiers.Source`)."""

    def __init__(self, digest: str, address: str, stub: AgentAsyncStub) -> None:
        self.uri = f"agent://{address}/{digest}"
        self._digest = digest
        self._stub = stub
        self._is_lost = False

    async def identity(self, name: str) -> str:
        """The digest says it all."""
        return f"{self._digest}/{name}"

    async def read(self, name: str, offset: int, target: memoryview) -> None:
        """Raises what the peer says, and :class:`StorageFailed` at once after the first failure."""
        if self._is_lost:
            raise StorageFailed(f"{self.uri} failed before", where=self.uri)
        try:
            await self._read(name, offset, target)
        except BaseException:
            self._is_lost = True  # other pieces must not each wait for it in vain
            raise

    async def close(self) -> None:
        """The channel is its maker's."""

    async def _read(self, name: str, offset: int, target: memoryview) -> None:
        request = FetchChunksRequest(
            checkpoint_digest=self._digest, file=name, offset=offset, length=len(target)
        )
        done = 0
        try:
            with closing_call(self._stub.FetchChunks(request, timeout=SILENT_SECONDS)) as call:
                async for chunk in call:
                    if chunk.offset != offset + done or done + len(chunk.data) > len(target):
                        raise StorageFailed(f"{self.uri} sent other bytes", where=self.uri)
                    target[done : done + len(chunk.data)] = chunk.data
                    done += len(chunk.data)
        except grpc.aio.AioRpcError as error:
            raise error_from(error, where=self.uri) from error
        if done < len(target):
            raise StorageFailed(f"{self.uri} sent too little of {name}", where=self.uri)


class Peers:
    """Finds them by what they say they hold."""

    def __init__(self, store: Store, settings: AgentSettings) -> None:
        self._store = store
        self._settings = settings

    @asynccontextmanager
    async def sharing(self, digest: str) -> AsyncIterator[Sequence[Source]]:
        """Peers to ask before the origin while the block runs; none if the origin is ours to ask.

        The caller answers for this checkpoint from before the block on.
        """
        async with AsyncExitStack() as held:
            try:
                addresses = await self._addresses(digest, held)
            except LiteLLMError as error:
                log.warning("peers can't be looked up", error=str(error))
                addresses = []
            peers = []
            for address in addresses[:MOST_PEERS]:
                channel = open_channel(address, tls=self._settings.tls)
                stub = AgentStub(await held.enter_async_context(channel))
                peers.append(PeerSource(digest, address, stub))
            yield peers

    async def _addresses(self, digest: str, held: AsyncExitStack) -> list[str]:
        agents = {
            status.node: status.grpc_address
            for entry in (await self._store.list_prefix(AGENTS)).entries
            if (status := loads(entry.value, AgentStatus, where=entry.key)).node
            != self._settings.node
        }
        residencies = [
            loads(entry.value, Residency, where=entry.key)
            for entry in (await self._store.list_prefix(RESIDENCY)).entries
        ]
        complete = {
            residency.node
            for residency in residencies
            if residency.checkpoint_digest == digest
            and medium_from_proto(residency.nearest) < Medium.OBJECT_STORE
        }
        if have := [agents[node] for node in sorted(complete) if node in agents]:
            return have
        holder = await self._elected(digest, held)
        return [agents[holder]] if holder in agents else []

    async def _elected(self, digest: str, held: AsyncExitStack) -> str:
        """The node that asks the origin: this one, until ``held`` ends, or another."""
        key = key_of(LeaderKey(f"fetch-{digest[:32]}"))
        async with AsyncExitStack() as candidate:
            seconds = self._settings.lease_seconds
            lease = await candidate.enter_async_context(self._store.lease(seconds))
            claim = Put(key, self._settings.node.encode(), lease)
            result = await self._store.transact(when=[Absent(key)], then=[claim])
            if result.succeeded:
                held.push_async_exit(candidate.pop_all())
                return self._settings.node
        (found,) = result.found
        return found.value.decode(errors="replace") if found else ""


@asynccontextmanager
async def alone(digest: str) -> AsyncIterator[Sequence[Source]]:
    """No peers."""
    yield ()
