"""One gRPC channel per agent, shared by its calls, closed when the agent is gone and idle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import grpc.aio

from lite_llm.contracts import LiteLLMError
from lite_llm.contracts.errors import AgentLost, Cancelled
from lite_llm.placement import ClusterView, Observed
from lite_llm.proto.v1.agent_pb2 import AgentStatus
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.proto.v1.generate_pb2 import GenerateRequest, GenerateStart
from lite_llm.wire import Generation, Line, Refused, TlsFiles, error_from, error_of, open_channel

if TYPE_CHECKING:
    from lite_llm.proto.v1.agent_pb2_grpc import AgentAsyncStub


class Severed(AgentLost):
    """The line to the agent broke, or there is none."""


def failure_of(failure: grpc.aio.AioRpcError | Refused, node: str) -> LiteLLMError:
    """What a call to an agent failed with, when it was not ended on this side."""
    if isinstance(failure, Refused):
        error = error_of(failure.detail, where=node)
    else:
        error = error_from(failure, where=node)
        if type(error) is AgentLost and not failure.trailing_metadata():
            return Severed(error.message, where=node)  # gRPC's own words, not the agent's
    if isinstance(error, Cancelled):  # its server stops
        return AgentLost("the agent gave the request up", where=error.where, remedy="try again")
    return error


class _Channel:
    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        self.address = address
        self.stub: AgentAsyncStub = AgentStub(channel)
        self.line = Line(self.stub)
        self.calls = 0
        self.retired = False
        self._channel = channel

    async def close(self) -> None:
        self.line.close()
        await self._channel.close()


class Agents:
    """Lends stubs; made by :func:`connecting`."""

    def __init__(self, tls: TlsFiles | None) -> None:
        self._tls = tls
        self._channels: dict[str, _Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @contextmanager
    def stub(self, agent: AgentStatus) -> Iterator[AgentAsyncStub]:
        """For calls to ``agent`` within the block; a lent channel is never closed."""
        with self._lent(agent) as channel:
            yield channel.stub

    @contextmanager
    def generation(self, agent: AgentStatus, start: GenerateStart) -> Iterator[Generation]:
        """Runs on ``agent`` within the block."""
        with (
            self._lent(agent) as channel,
            channel.line.generation(GenerateRequest(start=start)) as generation,
        ):
            yield generation

    @contextmanager
    def _lent(self, agent: AgentStatus) -> Iterator[_Channel]:
        channel = self._channels.get(agent.node)
        if channel is None or channel.address != agent.grpc_address:
            if channel is not None:
                self._retire(agent.node)
            opened = open_channel(agent.grpc_address, tls=self._tls)
            channel = self._channels[agent.node] = _Channel(agent.grpc_address, opened)
        channel.calls += 1
        try:
            yield channel
        finally:
            channel.calls -= 1
            self._close_if_done(channel)

    def keep(self, view: ClusterView) -> None:
        """Retire the channels of agents that are gone, or came back under another address."""
        for node, channel in list(self._channels.items()):
            agent = view.agents.get(node)
            if agent is None or agent.grpc_address != channel.address:
                self._retire(node)

    async def close(self) -> None:
        """End every call and close every channel."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()
        await asyncio.gather(*self._closing)

    def _retire(self, node: str) -> None:
        channel = self._channels.pop(node)
        channel.retired = True
        self._close_if_done(channel)

    def _close_if_done(self, channel: _Channel) -> None:
        # An agent that lost only its lease may still finish the streams that it has begun.
        if channel.retired and not channel.calls:
            task = asyncio.create_task(channel.close())
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
