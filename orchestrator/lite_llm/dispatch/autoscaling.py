"""Keeps models on as many agents as they need: one leader decides, and any may follow it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from lite_llm.contracts import LiteLLMError, ModelRef
from lite_llm.contracts.errors import Conflict, InvalidSettings
from lite_llm.contracts.keyspace import LeaderKey, key_of
from lite_llm.dispatch.demand import Uses
from lite_llm.dispatch.orders import Orders
from lite_llm.dispatch.tally import Tally
from lite_llm.metastore import Leadership, Store, leading
from lite_llm.placement import ClusterView, Observed, Wish
from lite_llm.placement.facts import Held
from lite_llm.placement.scaling import Decision, decide, dispensable
from lite_llm.placement.schedule import check_floor
from lite_llm.placement.scoring import able, best
from lite_llm.proto.v1.model_pb2 import Medium, ModelSpec
from lite_llm.proto.v1.orchestrator_pb2 import ScalingState
from lite_llm.telemetry import Metrics, names

ROLE = "autoscaler"
RETRY_SECONDS = 1.0
COUNTED_SECONDS = 10.0  # between two writes of how many requests come
NOTHING_PER_SECOND = 0.01

log = structlog.get_logger(__name__)


class Autoscaler:
    """While this orchestrator leads."""

    def __init__(
        self,
        views: Observed[ClusterView],
        orders: Orders,
        leadership: Leadership,
        metrics: Metrics,
    ) -> None:
        self._views = views
        self._orders = orders
        self._leadership = leadership
        self._metrics = metrics
        self._acting: dict[ModelRef, asyncio.Task[None]] = {}
        self._tally = Tally()
        self._warned: dict[ModelRef, ModelSpec] = {}

    async def reconcile(self) -> None:
        """Look at every model once; what is to be done goes on by itself."""
        view = self._views.value
        self._tally.look(view)
        self._tally.keep(view.models)
        for model, spec in view.models.items():
            if model in self._acting or not (spec.HasField("scaling") and view.is_synced):
                continue
            self._check(model, spec)
            await self._look_at(model, spec, view)

    async def close(self) -> None:
        """Begin nothing more, and give up what is under way."""
        tasks = list(self._acting.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _check(self, model: ModelRef, spec: ModelSpec) -> None:
        if self._warned.get(model) is spec:
            return
        self._warned[model] = spec
        for floor in spec.scaling.floors:
            try:
                check_floor(floor)
            except InvalidSettings as error:
                log.warning("floor ignored", model=str(model), error=str(error))

    async def _look_at(self, model: ModelRef, spec: ModelSpec, view: ClusterView) -> None:
        known, now = view.scalings.get(model), time.time()
        serving = _serving(view, model)
        if known is None:  # nobody has looked at it yet: from now on it can be idle
            await self._note(model, lambda state: None)
            return
        demand = self._tally.demand(model, serving, known, now)
        decision = decide(spec, serving, known, now, demand)
        desired = self._metrics[names.REPLICAS_DESIRED].labels(model=str(model))
        desired.set(decision.desired)
        is_used = any(held.running + held.waiting for held in serving.values())
        use_is_news = is_used and _is_news(now, known.used_at, spec.scaling.idle_seconds / 4)
        arrivals = demand.arrivals
        comes = max(arrivals.per_second, known.arrivals_per_second) > NOTHING_PER_SECOND
        if not (
            decision.reason
            or use_is_news
            or (comes and _is_news(now, known.counted_at, COUNTED_SECONDS))
        ):
            return

        def change(state: ScalingState) -> bool:
            if state.changed_at != known.changed_at:
                return False  # another leader has decided meanwhile, on what we have not seen
            if is_used:
                state.used_at = now
            state.arrivals_per_second = arrivals.per_second
            state.growth_per_second, state.counted_at = arrivals.growth, now
            state.replica_requests = demand.replica_requests
            if decision.reason:
                state.desired, state.reason = decision.desired, decision.reason
                state.changed_at = now
            return True

        # Who no longer leads writes nothing, and what was not written is not done.
        if await self._note(model, change) and decision.reason and self._leadership.is_alive:
            log.info(
                "scaling model", model=str(model), count=decision.desired, reason=decision.reason
            )
            acting = asyncio.create_task(self._act(model, decision, view), name=f"scale {model}")
            self._acting[model] = acting
            acting.add_done_callback(lambda _: self._acting.pop(model))

    async def _note(self, model: ModelRef, change: Callable[[ScalingState], object]) -> bool:
        return await self._orders.note(model, change, self._leadership.fence)

    async def _act(self, model: ModelRef, decision: Decision, view: ClusterView) -> None:
        serving = _serving(view, model)
        try:
            if decision.desired > len(serving):
                await self._add(model, decision, view, serving)
                return
            state, spec = view.scalings[model], view.models[model]
            surplus = len(serving) - decision.desired
            for node in dispensable(serving, state.pinned_nodes, surplus):
                if spec.keep_warm > Medium.MEDIUM_DRAM:
                    await self._orders.unload(model, node)
                else:
                    await self._orders.rest(model, node)
        except Conflict:
            pass  # a request loads it just now: whoever looks next sees what came of it
        except LiteLLMError as error:
            log.warning("scaling failed", model=str(model), error=str(error))

    async def _add(
        self, model: ModelRef, decision: Decision, view: ClusterView, serving: dict[str, Held]
    ) -> None:
        for _ in range(decision.desired - len(serving)):
            others = [agent for agent in able(view, model) if agent.node not in serving]
            agent = best(view, model, others, Wish())
            if agent is None:
                return
            async for _ in self._orders.load(model, agent.node, reason=decision.reason):
                pass
            serving = _serving(view := self._views.value, model)


def _serving(view: ClusterView, model: ModelRef) -> dict[str, Held]:
    return {
        node: held
        for node, held in view.held.get(model, {}).items()
        if held.serves and node in view.facts
    }


def _is_news(now: float, known: float, seconds: float) -> bool:
    return abs(now - known) >= max(1.0, seconds)


@asynccontextmanager
async def autoscaling(
    store: Store,
    views: Observed[ClusterView],
    orders: Orders,
    name: str,
    *,
    metrics: Metrics,
    lease_seconds: float,
    every_seconds: float,
) -> AsyncIterator[Uses]:
    """Scale while the block runs and this orchestrator, ``name``, is elected."""
    uses = Uses(name, views, orders)

    async def look() -> None:
        while True:
            try:
                async with leading(
                    store, key_of(LeaderKey(ROLE)), name.encode(), ttl_seconds=lease_seconds
                ) as leadership:
                    await _while_leading(views, orders, leadership, metrics, every_seconds)
            except LiteLLMError as error:
                log.warning("autoscaler interrupted", error=str(error))
            except Exception:  # one that stands still in silence would be worse
                log.exception("autoscaler interrupted")
            await asyncio.sleep(RETRY_SECONDS)

    telling = uses.tell(store, lease_seconds=lease_seconds, every_seconds=every_seconds)
    tasks = [asyncio.create_task(look(), name=ROLE), asyncio.create_task(telling, name="uses")]
    try:
        yield uses
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _while_leading(
    views: Observed[ClusterView],
    orders: Orders,
    leadership: Leadership,
    metrics: Metrics,
    every_seconds: float,
) -> None:
    autoscaler = Autoscaler(views, orders, leadership, metrics)
    held = metrics[names.LEASE_HELD].labels(role=ROLE)
    held.set(1)
    try:
        while leadership.is_alive:
            await autoscaler.reconcile()
            await asyncio.sleep(every_seconds)
    finally:
        held.set(0)
        await autoscaler.close()
