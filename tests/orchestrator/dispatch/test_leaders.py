"""What leaders know of requests, and two of them at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import DOORS, LeaderKey, ModelKey, ScalingKey, key_of
from lite_llm.dispatch import Agents, Orders
from lite_llm.dispatch.autoscaling import Autoscaler
from lite_llm.dispatch.tally import Tally
from lite_llm.metastore import Leadership, Store, leading
from lite_llm.orchestrator import Orchestrator, OrchestratorSettings
from lite_llm.placement import Binder, ClusterView, Observed, view_of, watching
from lite_llm.proto.v1.model_pb2 import ModelSource, ModelSpec, Scaling, ScheduledFloor
from lite_llm.proto.v1.orchestrator_pb2 import Demand, DoorStatus, ScalingState
from lite_llm.telemetry import Metrics, Program, names
from lite_llm.testing.stub_agent import StubAgent, stub_agent
from lite_llm.wire import dumps, loads, ref_to_proto

MODEL = ModelRef("default", "tiny")
KEY = key_of(LeaderKey("autoscaler"))


@pytest.fixture
def settings(settings: OrchestratorSettings) -> OrchestratorSettings:
    return replace(settings, scaling_seconds=0.05, claim_seconds=1.0)


def door(name: str, arrived: int, held: int = 0, model: ModelRef = MODEL) -> DoorStatus:
    demand = Demand(model=ref_to_proto(model), arrived=arrived, held=held)
    return DoorStatus(name=name, demands=[demand])


def told(*doors: DoorStatus) -> ClusterView:
    return view_of(1, models={}, agents={}, doors={each.name: each for each in doors})


def test_what_several_orchestrators_tell_is_counted_together() -> None:
    tally, state = Tally(), ScalingState()
    tally.look(told(door("a", 100), door("b", 50, held=2)))
    tally.demand(MODEL, {}, state, 1000.0)
    tally.look(told(door("a", 110), door("b", 60, held=3)))
    demand = tally.demand(MODEL, {}, state, 1002.0)
    assert demand.held == 3
    rate = demand.arrivals.per_second
    assert 0 < rate < 10
    tally.look(told(door("a", 120)))  # the other one is gone, and what it held
    demand = tally.demand(MODEL, {}, state, 1004.0)
    assert demand.held == 0
    assert demand.arrivals.per_second > rate


def test_one_that_starts_anew_counts_from_nothing() -> None:
    tally, state = Tally(), ScalingState()
    tally.look(told(door("a", 1000)))
    tally.demand(MODEL, {}, state, 1000.0)
    tally.look(told(door("a", 3)))
    assert tally.demand(MODEL, {}, state, 1002.0).arrivals.per_second == 0


def test_the_next_leader_goes_on_from_what_was_written_down() -> None:
    state = ScalingState(arrivals_per_second=10.0, growth_per_second=0.5, replica_requests=8)
    demand = Tally().demand(MODEL, {}, state, 1000.0)
    assert (demand.arrivals.per_second, demand.arrivals.growth) == (10.0, 0.5)
    assert demand.replica_requests == 8


async def declare(store: Store, scaling: Scaling) -> None:
    spec = ModelSpec(ref=ref_to_proto(MODEL), source=ModelSource(uri="file:///m"), scaling=scaling)
    await store.put(key_of(ModelKey(MODEL)), dumps(spec))


async def state(store: Store) -> ScalingState:
    entry = await store.get(key_of(ScalingKey(MODEL)))
    return loads(entry.value, ScalingState, where=entry.key) if entry else ScalingState()


async def test_an_orchestrator_tells_what_came_and_who_waits(
    store: Store, orchestrator: Orchestrator
) -> None:
    await declare(store, Scaling(max_replicas=1))
    asking = asyncio.create_task(ask(orchestrator))  # there is no agent: it is held
    async with asyncio.timeout(20):
        while True:
            entries = (await store.list_prefix(DOORS)).entries
            demands = [
                (demand.arrived, demand.held)
                for entry in entries
                for demand in loads(entry.value, DoorStatus, where=entry.key).demands
            ]
            if (1, 1) in demands:
                break
            await asyncio.sleep(0.05)
    assert entries[0].lease_id  # it goes with the orchestrator
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def ask(orchestrator: Orchestrator) -> None:
    async with aiohttp.ClientSession(f"http://{orchestrator.http_address}") as http:
        await http.post("/v1/completions", json={"model": "tiny", "prompt": "x"})


@asynccontextmanager
async def autoscaler(
    store: Store, views: Observed[ClusterView], leadership: Leadership
) -> AsyncIterator[Autoscaler]:
    agents = Agents(None)
    orders = Orders(store, views, agents, Binder(store, "leader", claim_seconds=5))
    metrics = Metrics(names.exported_by(Program.ORCHESTRATOR))
    scaler = Autoscaler(views, orders, leadership, metrics)
    try:
        yield scaler
    finally:
        await scaler.close()
        await agents.close()


async def settled(store: Store, views: Observed[ClusterView]) -> None:
    """The view shows all that the store holds by now."""
    async with asyncio.timeout(20):
        revision = (await store.list_prefix("/lite-llm/v1/models/")).revision
        await views.wait_until(lambda view: view.revision >= revision or None)


async def test_two_leaders_for_a_moment_do_no_harm(store: Store, agent: StubAgent) -> None:
    await declare(store, Scaling(min_replicas=2, max_replicas=2))
    async with (
        stub_agent(store, "other") as other,
        watching(store) as views,
        leading(store, KEY, b"old", ttl_seconds=30) as old,
        autoscaler(store, views, old) as scaler,
    ):
        await settled(store, views)
        await scaler.reconcile()  # notes that there is a model
        await views.wait_until(lambda view: view.scalings.get(MODEL))
        # The old leader pauses; another is elected; and the old one still believes in itself.
        await store.put(KEY, b"new")
        before = await state(store)
        blind = Leadership(lease=_Undying(), fence=old.fence)  # type: ignore[arg-type] # its clock stands
        async with autoscaler(store, views, blind) as paused:
            await paused.reconcile()
            await asyncio.sleep(0.2)
        assert await state(store) == before
        assert agent.loads == other.loads == []


class _Undying:
    is_alive = True


async def test_a_decision_on_what_is_no_longer_so_is_dropped(
    store: Store, agent: StubAgent
) -> None:
    await declare(store, Scaling(min_replicas=1, max_replicas=1))
    async with watching(store) as views, leading(store, KEY, b"one", ttl_seconds=30) as leader:
        await settled(store, views)
        await store.put(key_of(ScalingKey(MODEL)), dumps(ScalingState(model=ref_to_proto(MODEL))))
        seen = await views.wait_until(lambda view: view if MODEL in view.scalings else None)
        decided = ScalingState(model=ref_to_proto(MODEL), desired=1, changed_at=time.time())
        await store.put(key_of(ScalingKey(MODEL)), dumps(decided))  # by a leader before us
        async with autoscaler(store, Observed(seen), leader) as late:
            await late.reconcile()
            await asyncio.sleep(0.2)
        assert await state(store) == decided
        assert agent.loads == []


@pytest.mark.parametrize("zone", ["", "Europe/Berlin"])
async def test_a_floor_brings_agents_in_its_window(
    store: Store, agent: StubAgent, orchestrator: Orchestrator, zone: str
) -> None:
    floor = ScheduledFloor(start="00:00", end="00:00", zone=zone, min_replicas=1)
    wrong = ScheduledFloor(start="noon", end="00:00", min_replicas=9)
    await declare(store, Scaling(floors=[wrong, floor]))
    async with asyncio.timeout(20):
        while not agent.loads:  # noqa: ASYNC110 - of a stub
            await asyncio.sleep(0.05)
    assert "every day 00:00 to 00:00" in (await state(store)).reason
