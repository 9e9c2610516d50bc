"""Keeps models on as many agents as they need: one leader decides, and any may follow it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from lite_llm.contracts import LiteLLMError, ModelRef
from lite_llm.contracts.errors import Conflict
from lite_llm.contracts.keyspace import LeaderKey, key_of
from lite_llm.dispatch.orders import Orders
from lite_llm.metastore import Leadership, Store, leading
from lite_llm.placement import ClusterView, Observed, Wish
from lite_llm.placement.facts import Held
from lite_llm.placement.scaling import Decision, decide, dispensable
from lite_llm.placement.scoring import able, best
from lite_llm.proto.v1.model_pb2 import Scaling
from lite_llm.proto.v1.orchestrator_pb2 import ScalingState
from lite_llm.telemetry import Metrics, names

ROLE = "autoscaler"
RETRY_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Uses:
    """When models were last asked for, told to all orchestrators now and then."""

    def __init__(self, views: Observed[ClusterView], orders: Orders) -> None:
        self._views = views
        self._orders = orders
        self._used: set[ModelRef] = set()

    def note(self, model: ModelRef) -> None:
        """Somebody asks for it now."""
        self._used.add(model)

    async def tell(self) -> None:
        """Write down what the view does not show yet, where anybody cares."""
        used, self._used = self._used, set()
        view, now = self._views.value, time.time()
        for model in used:
            spec, state = view.models.get(model), view.scalings.get(model, ScalingState())
            if spec is None or not spec.scaling.idle_seconds:
                continue
            if abs(now - state.used_at) >= max(1.0, spec.scaling.idle_seconds / 4):
                await self._orders.note(model, lambda state: setattr(state, "used_at", now))


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

    async def reconcile(self) -> None:
        """Look at every model once; what is to be done goes on by itself."""
        view = self._views.value
        for model, spec in view.models.items():
            if model in self._acting or not (spec.HasField("scaling") and view.is_synced):
                continue
            await self._look_at(model, spec.scaling, view)

    async def close(self) -> None:
        """Begin nothing more, and give up what is under way."""
        tasks = list(self._acting.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_at(self, model: ModelRef, scaling: Scaling, view: ClusterView) -> None:
        state, now = view.scalings.get(model), time.time()
        serving = _serving(view, model)
        if state is None:  # nobody has looked at it yet: from now on it can be idle
            await self._note(model, lambda state: None)
            return
        if any(held.running + held.waiting for held in serving.values()) and (
            abs(now - state.used_at) >= max(1.0, scaling.idle_seconds / 4)
        ):
            await self._note(model, lambda state: setattr(state, "used_at", now))
            return
        decision = decide(scaling, serving, state, now)
        desired = self._metrics[names.REPLICAS_DESIRED].labels(model=str(model))
        desired.set(decision.desired)
        if not decision.reason:
            return
        log.info("scaling model", model=str(model), count=decision.desired, reason=decision.reason)

        def change(state: ScalingState) -> None:
            state.desired, state.reason = decision.desired, decision.reason
            state.changed_at = now

        await self._note(model, change)
        if not self._leadership.is_alive:
            return
        acting = asyncio.create_task(self._act(model, decision, view), name=f"scale {model}")
        self._acting[model] = acting
        acting.add_done_callback(lambda _: self._acting.pop(model))

    async def _note(self, model: ModelRef, change: Callable[[ScalingState], None]) -> None:
        await self._orders.note(model, change, self._leadership.fence)

    async def _act(self, model: ModelRef, decision: Decision, view: ClusterView) -> None:
        serving = _serving(view, model)
        try:
            if decision.desired > len(serving):
                await self._add(model, decision, view, serving)
                return
            state = view.scalings[model]
            surplus = len(serving) - decision.desired
            for node in dispensable(serving, state.pinned_nodes, surplus):
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
    uses = Uses(views, orders)

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

    async def tell() -> None:
        while True:
            await asyncio.sleep(every_seconds)
            try:
                await uses.tell()
            except LiteLLMError as error:
                log.warning("uses not told", error=str(error))

    tasks = [asyncio.create_task(look(), name=ROLE), asyncio.create_task(tell(), name="uses")]
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
