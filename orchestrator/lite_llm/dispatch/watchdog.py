"""Notices agents that have fallen silent, where nothing breaks that would tell."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic

import grpc
import grpc.aio

from lite_llm.contracts import LiteLLMError
from lite_llm.contracts.errors import AgentLost
from lite_llm.dispatch.agents import Agents, failure_of
from lite_llm.dispatch.breakers import Breakers
from lite_llm.placement import ClusterView, Observed
from lite_llm.proto.v1.agent_pb2 import AgentStatusRequest
from lite_llm.wire.endpoints import Cancellable

TICK_SECONDS = 0.2
SILENCE_SECONDS = 0.5  # of a stream, before its agent is asked whether it lives
PROBE_SECONDS = 0.6  # for the answer, twice: with the two above, under 2 s until a stream moves on
PROBES = 2
PREFILL = 10  # a first token may take so many times as long as any other

_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class Patience:
    """With one stream."""

    def __init__(self, node: str, call: Cancellable) -> None:
        self._node = node
        self._call = call
        self._lost: AgentLost | None = None
        self._since: float | None = monotonic()
        self._has_tokens = False

    def heard(self, *, is_token: bool) -> None:
        """An event came; while its reader is busy with it, nobody waits."""
        self._since = None
        self._has_tokens |= is_token

    def listening(self) -> None:
        """The next event is waited for."""
        self._since = monotonic()

    def silence(self, now: float) -> float:
        """Seconds that an event has been waited for; 0 for a stream that was given up."""
        if self._since is None or self._lost is not None:
            return 0.0
        return now - self._since

    def is_stalled(self, now: float, stall_seconds: float) -> bool:
        """Whether it was waited too long."""
        return self.silence(now) > stall_seconds * (1 if self._has_tokens else PREFILL)

    def end(self, reason: str) -> None:
        """Give the stream up."""
        self._lost = AgentLost(reason, where=self._node, remedy="try again")
        self._call.cancel()

    def told(self, failure: grpc.aio.AioRpcError | asyncio.CancelledError) -> LiteLLMError:
        """What the end of the call means; a cancellation of the reader itself is raised."""
        # A call that the watchdog cancelled ends in either, as grpc's timing has it.
        task = asyncio.current_task()
        if self._lost is not None and not (task and task.cancelling()):
            return self._lost
        if isinstance(failure, asyncio.CancelledError):
            raise failure
        return failure_of(failure, self._node)


class Watchdog:
    """Made by :func:`guarding`."""

    def __init__(
        self,
        views: Observed[ClusterView],
        agents: Agents,
        breakers: Breakers,
        *,
        stall_seconds: float,
    ) -> None:
        self._views = views
        self._agents = agents
        self._breakers = breakers
        self._stall_seconds = stall_seconds
        self._streams: dict[str, set[Patience]] = defaultdict(set)
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._is_needed = asyncio.Event()

    @contextmanager
    def over(self, node: str, call: Cancellable) -> Iterator[Patience]:
        """Ends ``call`` when its agent is lost without a word."""
        patience = Patience(node, call)
        self._streams[node].add(patience)
        self._is_needed.set()
        try:
            yield patience
        finally:
            streams = self._streams[node]
            streams.discard(patience)
            if not streams:
                del self._streams[node]

    async def watch(self) -> None:
        """Look at all streams, again and again; sleep while there is none."""
        while True:
            await self._is_needed.wait()
            now = monotonic()
            for node, streams in list(self._streams.items()):
                self._look_at(node, streams, now)
            if not self._streams:
                self._is_needed.clear()
            await asyncio.sleep(TICK_SECONDS)

    async def close(self) -> None:
        """Ask nobody any more."""
        for probe in self._probes.values():
            probe.cancel()
        await asyncio.gather(*self._probes.values(), return_exceptions=True)

    def _look_at(self, node: str, streams: Iterable[Patience], now: float) -> None:
        silent = False
        for patience in list(streams):
            if patience.is_stalled(now, self._stall_seconds):
                patience.end(f"the agent said nothing for {patience.silence(now):.0f} s")
                self._breakers.failed(node, "a stream stalled")
            silent |= patience.silence(now) > SILENCE_SECONDS
        if silent and node not in self._probes:
            probe = self._probes[node] = asyncio.create_task(self._probe(node))
            probe.add_done_callback(lambda _: self._probes.pop(node))

    async def _probe(self, node: str) -> None:
        agent = self._views.value.agents.get(node)
        if agent is None:  # silent, and without a lease
            return self._lost(node, "the agent is gone")
        for _ in range(PROBES):
            with self._agents.stub(agent) as stub:
                try:
                    await stub.Status(AgentStatusRequest(), timeout=PROBE_SECONDS)
                except grpc.aio.AioRpcError as error:
                    if error.code() in _GONE:
                        continue
            # It lives: it may be busy with a long prompt. Ask again when the silence goes on.
            return await asyncio.sleep(SILENCE_SECONDS)
        return self._lost(node, "the agent does not answer")

    def _lost(self, node: str, reason: str) -> None:
        now = monotonic()
        for patience in list(self._streams.get(node, ())):
            if patience.silence(now) > SILENCE_SECONDS:
                patience.end(reason)
        self._breakers.severed(node, reason)


@asynccontextmanager
async def guarding(
    views: Observed[ClusterView], agents: Agents, breakers: Breakers, *, stall_seconds: float
) -> AsyncIterator[Watchdog]:
    """A watchdog that watches while the block runs."""
    watchdog = Watchdog(views, agents, breakers, stall_seconds=stall_seconds)
    watching = asyncio.create_task(watchdog.watch(), name="watchdog")
    try:
        yield watchdog
    finally:
        watching.cancel()
        await watchdog.close()
        await asyncio.gather(watching, return_exceptions=True)
