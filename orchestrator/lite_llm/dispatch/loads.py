"""Brings models to agents: one load per model, however many requests wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from time import monotonic

import grpc.aio
import structlog
import xxhash

from lite_llm.contracts import LiteLLMError, ModelRef
from lite_llm.contracts.errors import (
    NoAgent,
    OutOfMemory,
    Overloaded,
    RuntimeFault,
    StoreUnavailable,
)
from lite_llm.dispatch.agents import Agents, Severed
from lite_llm.dispatch.breakers import Breakers
from lite_llm.dispatch.setbacks import Setbacks
from lite_llm.dispatch.timeline import Timeline, path_of
from lite_llm.dispatch.watchdog import Watchdog
from lite_llm.placement import (
    Binder,
    ClusterView,
    Load,
    Observed,
    Plan,
    Serve,
    Wait,
    Weights,
    Wish,
    plan_for,
)
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.agent_pb2 import AgentStatus, Assignment
from lite_llm.proto.v1.generate_pb2 import ColdStart, LoadPhase, LoadProgress
from lite_llm.proto.v1.model_pb2 import ModelSpec
from lite_llm.registry import RegistrySettings, load_request
from lite_llm.telemetry import Metrics
from lite_llm.wire import closing_call, ref_to_proto

_LOCAL = (RuntimeFault, OutOfMemory, Overloaded, NoAgent)

log = structlog.get_logger(__name__)

WATCH_SECONDS = 10.0  # what is written shows in the view within milliseconds, or something is wrong


@dataclass(frozen=True)
class _UnderWay:
    progress: Observed[LoadProgress]
    timeline: Timeline
    task: asyncio.Task[None]


class Loads:
    """What is being loaded because somebody waits for it; made by :func:`loading`."""

    def __init__(
        self,
        views: Observed[ClusterView],
        binder: Binder,
        agents: Agents,
        breakers: Breakers,
        watchdog: Watchdog,
        *,
        metrics: Metrics,
        no_agent_seconds: float,
        weights: Weights,
        registry: RegistrySettings | None,
    ) -> None:
        self._views = views
        self._binder = binder
        self._agents = agents
        self._breakers = breakers
        self._watchdog = watchdog
        self._metrics = metrics
        self._no_agent_seconds = no_agent_seconds
        self._weights = weights
        self._registry = registry
        self._under_way: dict[ModelRef, _UnderWay] = {}
        self._setbacks = Setbacks()
        self._timelines: dict[ModelRef, Timeline] = {}

    async def progress(self, model: ModelRef) -> AsyncGenerator[LoadProgress]:
        """Joins the model's load, or starts it; ends when an agent serves the model.

        Raises what the load failed with, and for a while afterwards at once again;
        :class:`NoAgent` if no agent appears in time. A load goes on when those who wait for it
        have gone.
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

    def remaining_seconds(self, model: ModelRef) -> float:
        """Until the model serves, as far as its load can tell; else 0 or less."""
        load = self._under_way.get(model)
        return load.progress.value.remaining_seconds if load else 0.0

    def cold_start(self, model: ModelRef) -> ColdStart:
        """Of the model's last load that this orchestrator saw; empty if another one did it."""
        timeline = self._timelines.get(model)
        return timeline.told() if timeline else ColdStart()

    async def close(self) -> None:
        """Give up every load; who waits for one is told by cancellation."""
        tasks = [load.task for load in self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, model: ModelRef) -> _UnderWay:
        progress, timeline = Observed(_queued(model, "looking for an agent")), Timeline()
        bringing = self._bring(model, progress, timeline)
        task = asyncio.create_task(bringing, name=f"load {model}")
        load = self._under_way[model] = _UnderWay(progress, timeline, task)
        task.add_done_callback(lambda _: self._end(model, load))
        return load

    def _end(self, model: ModelRef, load: _UnderWay) -> None:
        del self._under_way[model]
        load.progress.set(load.progress.value)  # wakes those who wait, to see that it is done
        if not load.task.cancelled() and (error := load.task.exception()):
            log.warning("load failed", model=str(model), error=str(error))

    async def _bring(
        self, model: ModelRef, progress: Observed[LoadProgress], timeline: Timeline
    ) -> None:
        failures: dict[str, LiteLLMError] = {}
        while True:
            view = self._views.value
            match plan_for(view, model, self._wish(model, failures)):
                case Serve():
                    return
                case Load(agent, spec):
                    if agent.node in failures:
                        self._setbacks.failed(model, spec.generation, failures[agent.node])
                        raise failures[agent.node]
                    self._setbacks.check(model, spec.generation)
                    try:
                        if not await self._claim_and_load(model, agent, spec, progress, timeline):
                            await self._views.wait_changed(view)
                    except _LOCAL as error:  # another agent may do better
                        log.warning(
                            "load failed", model=str(model), agent=agent.node, error=str(error)
                        )
                        failures[agent.node] = error
                        self._failed_at(agent.node, error)
                    except LiteLLMError as error:
                        if not isinstance(error, StoreUnavailable):
                            self._setbacks.failed(model, spec.generation, error)
                        raise
                case Wait(reason, loading):
                    progress.set(_queued(model, reason))
                    try:
                        seconds = None if loading else self._no_agent_seconds
                        await self._wait(model, seconds, reason, failures)
                    except NoAgent as error:
                        raise next(iter(failures.values()), error) from None

    async def _claim_and_load(
        self,
        model: ModelRef,
        agent: AgentStatus,
        spec: ModelSpec,
        progress: Observed[LoadProgress],
        timeline: Timeline,
    ) -> bool:
        """False if another orchestrator has the right to load the model."""
        async with self._binder.claim(
            model, agent.node, reason="requests wait", generation=spec.generation
        ) as claim:
            if claim is None:
                return False
            if await self._is_needed(model, claim):
                residency = self._views.value.residencies.get(model, {}).get(agent.node)
                if residency is not None:
                    timeline.path = path_of(residency.nearest)
                outcome = "failed"
                try:
                    await self._load(model, agent, spec, progress, timeline)
                    outcome = "ok"
                finally:
                    timeline.record(str(model), outcome, self._metrics)
                self._setbacks.succeeded(model)
                self._timelines[model] = timeline
        return True

    def _wish(self, model: ModelRef, shunned: Collection[str]) -> Wish:
        # Other ties for other models: a fleet that is all alike is filled evenly.
        seed = xxhash.xxh3_64_intdigest(str(model).encode())
        return Wish(shunned=shunned, seed=seed, weights=self._weights)

    def _failed_at(self, node: str, error: LiteLLMError) -> None:
        if isinstance(error, Severed):
            self._breakers.severed(node, str(error))

    async def _wait(
        self, model: ModelRef, seconds: float | None, reason: str, shunned: Collection[str]
    ) -> None:
        def other_plan(view: ClusterView) -> Plan | None:
            plan = plan_for(view, model, self._wish(model, shunned))
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
        timeline: Timeline,
    ) -> None:
        log.info("loading model", model=str(model), agent=agent.node)
        started = monotonic()
        request = await load_request(spec, self._registry)
        with self._agents.stub(agent) as stub:
            call = stub.Load(request)
            with self._watchdog.over(agent, model, call) as patience, closing_call(call):
                try:
                    async for step in call:
                        patience.heard(is_token=False)
                        timeline.saw(step)
                        progress.set(step)
                        patience.listening()
                except (grpc.aio.AioRpcError, asyncio.CancelledError) as failure:
                    raise patience.told(failure) from failure

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
    views: Observed[ClusterView],
    binder: Binder,
    agents: Agents,
    breakers: Breakers,
    watchdog: Watchdog,
    *,
    metrics: Metrics,
    no_agent_seconds: float,
    weights: Weights,
    registry: RegistrySettings | None = None,
) -> AsyncIterator[Loads]:
    """Loads that are given up when the block ends.

    A model waits ``no_agent_seconds`` for an agent that could load it. Agents get signed addresses
    of what lies in the stores of ``registry``.
    """
    loads = Loads(
        views,
        binder,
        agents,
        breakers,
        watchdog,
        metrics=metrics,
        no_agent_seconds=no_agent_seconds,
        weights=weights,
        registry=registry,
    )
    try:
        yield loads
    finally:
        await loads.close()
