"""One gRPC channel per agent, shared by its calls, closed when the agent is gone and idle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc.aio

from lite_llm.contracts import LiteLLMError
from lite_llm.contracts.errors import AgentLost, Cancelled
from lite_llm.placement import ClusterView, Observed
from lite_llm.proto.v1.agent_pb2 import AgentStatus
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.wire import TlsFiles, error_from, open_channel

if TYPE_CHECKING:
    from lite_llm.proto.v1.agent_pb2_grpc import AgentAsyncStub


class Severed(AgentLost):
    """The line to the agent broke, or there is none."""


def failure_of(failure: grpc.aio.AioRpcError, node: str) -> LiteLLMError:
    """What a call to an agent failed with, when it was not ended on this side."""
    error = error_from(failure, where=node)
    if isinstance(error, Cancelled):  # its server stops
        return AgentLost("the agent gave the request up", where=error.where, remedy="try again")
    if type(error) is AgentLost and not failure.trailing_metadata():
        return Severed(error.message, where=node)  # gRPC's own words, not the agent's
    return error


@dataclass
class _Line:
    address: str
    channel: grpc.aio.Channel
    calls: int = 0
    retired: bool = False


class Agents:
    """Lends stubs; made by :func:`connecting`."""

    def __init__(self, tls: TlsFiles | None) -> None:
        self._tls = tls
        self._lines: dict[str, _Line] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @contextmanager
    def stub(self, agent: AgentStatus) -> Iterator[AgentAsyncStub]:
        """A stub for calls to ``agent`` within the block; a lent channel is never closed."""
        line = self._lines.get(agent.node)
        if line is None or line.address != agent.grpc_address:
            if line is not None:
                self._retire(agent.node)
            channel = open_channel(agent.grpc_address, tls=self._tls)
            line = self._lines[agent.node] = _Line(agent.grpc_address, channel)
        line.calls += 1
        try:
            yield AgentStub(line.channel)
        finally:
            line.calls -= 1
            self._close_if_done(line)

    def keep(self, view: ClusterView) -> None:
        """Retire the channels of agents that are gone, or came back under another address."""
        for node, line in list(self._lines.items()):
            agent = view.agents.get(node)
            if agent is None or agent.grpc_address != line.address:
                self._retire(node)

    async def close(self) -> None:
        """End every call and close every channel."""
        for line in self._lines.values():
            await line.channel.close()
        self._lines.clear()
        await asyncio.gather(*self._closing)

    def _retire(self, node: str) -> None:
        line = self._lines.pop(node)
        line.retired = True
        self._close_if_done(line)

    def _close_if_done(self, line: _Line) -> None:
        # An agent that lost only its lease may still finish the streams that it has begun.
        if line.retired and not line.calls:
            task = asyncio.create_task(line.channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


@asynccontextmanager
async def connecting(
    views: Observed[ClusterView], *, tls: TlsFiles | None = None
) -> AsyncIterator[Agents]:
    """Agents whose channels follow the view while the block runs."""
    agents = Agents(tls)

    async def follow() -> None:
        async for view in views.changes():
            agents.keep(view)

    following = asyncio.create_task(follow())
    try:
        yield agents
    finally:
        following.cancel()
        await agents.close()
