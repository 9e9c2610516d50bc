"""Brings models to agents: one load per model, however many requests wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from time import monotonic

import grpc.aio
import structlog

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import NoAgent, StoreUnavailable
from lite_llm.dispatch.agents import Agents
from lite_llm.placement import Binder, ClusterView, Load, Observed, Plan, Serve, Wait, plan_for
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.agent_pb2 import AgentStatus, Assignment, LoadRequest
from lite_llm.proto.v1.generate_pb2 import LoadPhase, LoadProgress
from lite_llm.proto.v1.model_pb2 import Medium, ModelSpec
from lite_llm.wire import error_from, ref_to_proto

log = structlog.get_logger(__name__)

WATCH_SECONDS = 10.0  # what is written shows in the view within milliseconds, or something is wrong


@dataclass(frozen=True)
class _UnderWay:
    progress: Observed[LoadProgress]
    task: asyncio.Task[None]


class Loads:
    """What is being loaded because somebody waits for it; made by :func:`loading`."""

    def __init__(
        self,
        views: Observed[ClusterView],
        binder: Binder,
        agents: Agents,
        *,
        no_agent_seconds: float,
    ) -> None:
        self._views = views
        self._binder = binder
        self._agents = agents
        self._no_agent_seconds = no_agent_seconds
        self._under_way: dict[ModelRef, _UnderWay] = {}

    async def progress(self, model: ModelRef) -> AsyncGenerator[LoadProgress]:
        """Joins the model's load, or starts it; ends when an agent serves the model.

        Raises what the load failed with, :class:`NoAgent` if no agent appears in time. A load goes
        on when those who wait for it have gone.
        """
        if isinstance(plan_for(self._views.value, model), Serve):
            return
        load = self._under_way.get(model) or self._start(model)
        async with aclosing(load.progress.changes()) as changes:
            async for progress in changes:
                if load.task.done():
                    break
                yield progress
        await asyncio.shield(load.task)

    async def close(self) -> None:
        """Give up every load; who waits for one is told by cancellation."""
        tasks = [load.task for load in self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, model: ModelRef) -> _UnderWay:
        progress = Observed(_queued(model, "looking for an agent"))
        task = asyncio.create_task(self._bring(model, progress), name=f"load {model}")
        load = self._under_way[model] = _UnderWay(progress, task)
        task.add_done_callback(lambda _: self._end(model, load))
        return load

    def _end(self, model: ModelRef, load: _UnderWay) -> None:
        del self._under_way[model]
        load.progress.set(load.progress.value)  # wakes those who wait, to see that it is done
        if not load.task.cancelled() and (error := load.task.exception()):
            log.warning("load failed", model=str(model), error=str(error))

    async def _bring(self, model: ModelRef, progress: Observed[LoadProgress]) -> None:
        while True:
            view = self._views.value
            match plan_for(view, model):
                case Serve():
                    return
                case Load(agent, spec):
                    async with self._binder.claim(
                        model, agent.node, reason="requests wait", generation=spec.generation
                    ) as claim:
                        if claim is not None and await self._is_needed(model, claim):
                            await self._load(model, agent, spec, progress)
                    if claim is None:
                        await self._views.wait_changed(view)
                case Wait(reason, loading):
                    progress.set(_queued(model, reason))
                    await self._wait(model, None if loading else self._no_agent_seconds, reason)

    async def _wait(self, model: ModelRef, seconds: float | None, reason: str) -> None:
        def other_plan(view: ClusterView) -> Plan | None:
            plan = plan_for(view, model)
            return None if isinstance(plan, Wait) and plan.reason == reason else plan

        try:
            async with asyncio.timeout(seconds):
                await self._views.wait_until(other_plan)
        except TimeoutError:
            raise NoAgent(
                reason,
                where=str(model),
                remedy="start an agent, or see what is wrong with those that run",
                retry_after=self._no_agent_seconds,
            ) from None

    async def _is_needed(self, model: ModelRef, claim: Assignment) -> bool:
        # Whoever held the claim before may have loaded the model: with our own claim in the view,
        # everything that happened before it is in the view too.
        def settled(view: ClusterView) -> Plan | None:
            claimed = claim in view.assignments.get(model, {}).values()
            return plan_for(view, model) if claimed else None

        return not isinstance(await self._seen(settled, "the claim of a load"), Serve)

    async def _load(
        self,
        model: ModelRef,
        agent: AgentStatus,
        spec: ModelSpec,
        progress: Observed[LoadProgress],
    ) -> None:
        log.info("loading model", model=str(model), agent=agent.node)
        started = monotonic()
        with self._agents.stub(agent) as stub:
            try:
                async for step in stub.Load(LoadRequest(spec=spec, target=Medium.MEDIUM_GPU)):
                    progress.set(step)
            except grpc.aio.AioRpcError as error:
                raise error_from(error, where=agent.node) from error

        def served(view: ClusterView) -> Serve | None:
            plan = plan_for(view, model)
            return plan if isinstance(plan, Serve) else None

        await self._seen(served, f"{model} on {agent.node}, whose load has ended")
        log.info("model loaded", model=str(model), agent=agent.node, seconds=monotonic() - started)

    async def _seen(self, condition: Callable[[ClusterView], Plan | None], what: str) -> Plan:
        try:
            async with asyncio.timeout(WATCH_SECONDS):
                return await self._views.wait_until(condition)
        except TimeoutError:
            raise StoreUnavailable(
                f"the metadata store does not show {what}",
                remedy="see the logs of that agent and of the metadata store",
                retry_after=WATCH_SECONDS,
            ) from None


def _queued(model: ModelRef, message: str) -> LoadProgress:
    return LoadProgress(
        model=ref_to_proto(model),
        phase=LoadPhase.LOAD_PHASE_QUEUE,
        state=model_pb2.MODEL_STATE_INIT,
        remaining_seconds=-1,
        message=message,
    )


@asynccontextmanager
async def loading(
    views: Observed[ClusterView], binder: Binder, agents: Agents, *, no_agent_seconds: float
) -> AsyncIterator[Loads]:
    """Loads that are given up when the block ends.

    A model waits ``no_agent_seconds`` for an agent that could load it.
    """
    loads = Loads(views, binder, agents, no_agent_seconds=no_agent_seconds)
    try:
        yield loads
    finally:
        await loads.close()
