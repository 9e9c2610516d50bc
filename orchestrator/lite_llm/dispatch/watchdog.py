"""Notices agents that have fallen silent, where nothing breaks that would tell."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic

import grpc
import grpc.aio

from lite_llm.contracts import LiteLLMError, ModelRef
from lite_llm.contracts.errors import AgentLost
from lite_llm.dispatch.agents import Agents, failure_of
from lite_llm.dispatch.breakers import Breakers
from lite_llm.placement import ClusterView, Observed
from lite_llm.proto.v1.agent_pb2 import AgentStatus, AgentStatusRequest
from lite_llm.wire import Refused
from lite_llm.wire.endpoints import Cancellable

TICK_SECONDS = 0.2
LATE_SECONDS = 1.0  # a tick that comes so late says that we did not listen: the silence is our own
SILENCE_SECONDS = 0.5  # of a stream, before its agent is asked whether it lives
PROBE_SECONDS = 0.6  # for the answer, twice: with the two above, under 2 s until a stream moves on
PROBES = 2
GONE_SECONDS = 5.0  # of silence of an agent that has no lease any more, though it answers
ALONE_SECONDS = 10.0  # of silence of one that does not answer, where no other serves the model
PREFILL = 10  # a first token may take so many times as long as any other

_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class Patience:
    """With one stream."""

    def __init__(self, agent: AgentStatus, model: ModelRef, call: Cancellable) -> None:
        self.agent = agent
        self.model = model
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

    def forgive(self, seconds: float) -> None:
        """So long nobody could have been heard."""
        if self._since is not None:
            self._since += seconds

    def is_stalled(self, now: float, stall_seconds: float) -> bool:
        """Whether it was waited too long."""
        return self.silence(now) > stall_seconds * (1 if self._has_tokens else PREFILL)

    def end(self, reason: str) -> None:
        """Give the stream up."""
        self._lost = AgentLost(reason, where=self.agent.node, remedy="try again")
        self._call.cancel()

    def told(
        self, failure: grpc.aio.AioRpcError | Refused | asyncio.CancelledError
    ) -> LiteLLMError:
        """What the end of the call means; a cancellation of the reader itself is raised."""
        # A call that the watchdog cancelled ends in either, as grpc's timing has it.
        task = asyncio.current_task()
        if self._lost is not None and not (task and task.cancelling()):
            return self._lost
        if isinstance(failure, asyncio.CancelledError):
            raise failure
        return failure_of(failure, self.agent.node)


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
        self._late_at = 0.0
        """When we last came too late to judge anybody."""

    @contextmanager
    def over(self, agent: AgentStatus, model: ModelRef, call: Cancellable) -> Iterator[Patience]:
        """Ends ``call``, which is about ``model``, when ``agent`` is lost without a word."""
        patience, node = Patience(agent, model, call), agent.node
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
            due = monotonic() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            now = monotonic()
            if (late := now - due) > LATE_SECONDS:
                self._late_at = now
            for node, streams in list(self._streams.items()):
                if late > LATE_SECONDS:
                    for patience in streams:
                        patience.forgive(late)
                self._look_at(node, streams, now)
            if not self._streams:
                self._is_needed.clear()

    async def close(self) -> None:
        """Ask nobody any more."""
        for probe in self._probes.values():
            probe.cancel()
        await asyncio.gather(*self._probes.values(), return_exceptions=True)

    def _look_at(self, node: str, streams: Iterable[Patience], now: float) -> None:
        silent: AgentStatus | None = None
        is_gone = node not in self._views.value.agents
        for patience in list(streams):
            if patience.is_stalled(now, self._stall_seconds) or (
                is_gone and patience.silence(now) > GONE_SECONDS
            ):
                patience.end(f"the agent said nothing for {patience.silence(now):.0f} s")
                self._breakers.failed(node, "a stream stalled")
            if patience.silence(now) > SILENCE_SECONDS:
                silent = patience.agent
        if silent is not None and node not in self._probes:
            probe = self._probes[node] = asyncio.create_task(self._probe(silent))
            probe.add_done_callback(lambda _: self._probes.pop(node))

    async def _probe(self, agent: AgentStatus) -> None:
        began = monotonic()
        for _ in range(PROBES):
            with self._agents.stub(agent) as stub:
                try:
                    await stub.Status(AgentStatusRequest(), timeout=PROBE_SECONDS)
                except grpc.aio.AioRpcError as error:
                    if error.code() in _GONE:
                        continue
            # It lives: it may be busy with a long prompt. Ask again when the silence goes on.
            return await asyncio.sleep(SILENCE_SECONDS)
        if self._late_at < began:
            self._lost(agent.node)
        return None

    def _lost(self, node: str) -> None:
        now, reason = monotonic(), "the agent does not answer"
        for patience in list(self._streams.get(node, ())):
            # Where nobody else could go on, an agent that is only slow does it soonest.
            is_alone = not self._has_other(patience.model, node)
            if patience.silence(now) > (ALONE_SECONDS if is_alone else SILENCE_SECONDS):
                patience.end(reason)
                self._breakers.severed(node, reason)

    def _has_other(self, model: ModelRef, node: str) -> bool:
        view = self._views.value
        return any(
            held.serves and other != node and other in view.facts and other not in view.avoided
            for other, held in view.held.get(model, {}).items()
        )


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
