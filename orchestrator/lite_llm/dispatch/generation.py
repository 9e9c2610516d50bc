"""Takes one request to an agent and its tokens back."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from time import monotonic

import grpc.aio

from lite_llm.contracts import LiteLLMError, ModelRef
from lite_llm.contracts.errors import AgentLost, Cancelled, DeadlineExceeded, Internal, NoAgent
from lite_llm.dispatch.agents import Agents
from lite_llm.dispatch.loads import Loads
from lite_llm.placement import ClusterView, Observed, Serve, plan_for
from lite_llm.proto.v1.agent_pb2 import AgentStatus
from lite_llm.proto.v1.generate_pb2 import (
    GenerateEvent,
    GenerateRequest,
    GenerateStart,
    LoadProgress,
)
from lite_llm.telemetry import Metrics, names
from lite_llm.wire import error_from, ref_from_proto

RETRY_SECONDS = 5.0  # after a held request's time ran out: loads take seconds to minutes
STALE_SECONDS = 2.0  # until what an agent knows of itself shows in the view, or something is wrong


class Dispatcher:
    """Routes requests by the view."""

    def __init__(
        self,
        views: Observed[ClusterView],
        loads: Loads,
        agents: Agents,
        *,
        metrics: Metrics,
        hold_seconds: float,
    ) -> None:
        """A request is held for ``hold_seconds`` at most while its model is loaded."""
        self._views = views
        self._loads = loads
        self._agents = agents
        self._metrics = metrics
        self._hold_seconds = hold_seconds

    async def generate(self, start: GenerateStart) -> AsyncGenerator[GenerateEvent]:
        """Progress while the model is loaded, then what its agent says, in one sequence.

        Close the iterator to withdraw the request: its work on the agent ends. Raises
        ``ModelNotFound``, what a load failed with, and ``AgentLost`` if the agent fails on the way.
        """
        model = ref_from_proto(start.model)
        deadline = asyncio.get_running_loop().time() + self._hold_seconds
        first = sequence = start.resume.next_sequence
        refused_at, has_begun = math.inf, False
        while True:
            while not isinstance(plan := plan_for(view := self._views.value, model), Serve):
                async with aclosing(self._held(model, deadline)) as held:
                    async for progress in held:
                        yield GenerateEvent(sequence=sequence, progress=progress)
                        sequence += 1
            try:
                async with aclosing(self._stream(start, plan.agent)) as events:
                    async for event in events:
                        has_begun = True
                        event.sequence += sequence - first
                        yield event
                return
            except NoAgent:
                # It knows sooner than the view that its worker died, or that it leaves.
                refused_at = min(refused_at, asyncio.get_running_loop().time())
                if has_begun or not await self._has_changed(view, refused_at + STALE_SECONDS):
                    raise

    async def _has_changed(self, view: ClusterView, deadline: float) -> bool:
        try:
            async with asyncio.timeout_at(deadline):
                await self._views.wait_changed(view)
        except TimeoutError:
            return False
        return True

    async def _held(self, model: ModelRef, deadline: float) -> AsyncGenerator[LoadProgress]:
        since = monotonic()
        gauge = self._metrics[names.HELD_REQUESTS].labels(model=str(model))
        gauge.inc()
        try:
            async with aclosing(self._loads.progress(model)) as steps:
                while True:
                    async with asyncio.timeout_at(deadline):
                        progress = await anext(steps, None)
                    if progress is None:
                        return
                    yield progress
        except TimeoutError:
            raise DeadlineExceeded(
                f"{model} was not loaded within {self._hold_seconds:g} s",
                where=str(model),
                remedy="try again: the load goes on",
                retry_after=RETRY_SECONDS,
            ) from None
        finally:
            gauge.dec()
            waited = self._metrics[names.HELD_WAIT_SECONDS].labels(model=str(model))
            waited.observe(monotonic() - since)

    async def _stream(
        self, start: GenerateStart, agent: AgentStatus
    ) -> AsyncGenerator[GenerateEvent]:
        expected = start.resume.next_sequence
        unfinished = start.sampling.n or 1
        with self._agents.stub(agent) as stub:
            call = stub.Generate(_only(GenerateRequest(start=start)))
            try:
                async for event in call:
                    if event.sequence != expected:
                        raise Internal(
                            f"event {event.sequence} came where {expected} was due",
                            where=agent.node,
                            remedy="report this with the agent's log",
                        )
                    expected += 1
                    unfinished -= event.HasField("finished")
                    yield event
            except grpc.aio.AioRpcError as error:
                raise _lost(error_from(error, where=agent.node)) from error
            finally:
                call.cancel()  # ends the agent's work if ours ended first
        if unfinished > 0:
            raise AgentLost("the agent ended the stream early", where=agent.node)


def _lost(error: LiteLLMError) -> LiteLLMError:
    # A call that we did not cancel was cancelled by a server that stops.
    if isinstance(error, Cancelled):
        return AgentLost("the agent gave the request up", where=error.where, remedy="try again")
    return error


async def _only(request: GenerateRequest) -> AsyncIterator[GenerateRequest]:
    yield request
