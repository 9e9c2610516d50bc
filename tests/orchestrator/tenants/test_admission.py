"""Limits of tenants, and whose turn it is."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from lite_llm.contracts.errors import Overloaded, QuotaExceeded
from lite_llm.telemetry import Metrics, render
from lite_llm.tenants import ANYBODY, Admission, Tenant
from lite_llm.tenants.fairness import FairQueue


async def test_so_many_at_a_time() -> None:
    metrics = Metrics()
    admission = Admission(metrics, capacity=100, max_waiting=100)
    tenant = Tenant(name="acme", concurrent_requests=2)
    async with admission.admitted(tenant):
        async with admission.admitted(tenant):
            with pytest.raises(QuotaExceeded, match="2 requests at a time"):
                async with admission.admitted(tenant):
                    pass
            async with admission.admitted(ANYBODY):
                pass
        async with admission.admitted(tenant):
            pass
    assert 'quota_rejected_total{limit="concurrency",tenant="acme"} 1.0' in (
        render(metrics.registry, "")[0].decode()
    )


async def test_so_many_a_minute() -> None:
    now = 0.0
    admission = Admission(Metrics(), capacity=9, max_waiting=9, clock=lambda: now)
    tenant = Tenant(name="acme", requests_per_minute=6)

    async def ask() -> float:
        try:
            async with admission.admitted(tenant):
                return 0.0
        except QuotaExceeded as error:
            return error.retry_after

    assert [await ask() for _ in range(6)] == [0.0] * 6
    assert await ask() == pytest.approx(10.0)
    now += 9.0
    assert await ask() == pytest.approx(1.0)
    now += 1.0
    assert [await ask() > 0 for _ in range(2)] == [False, True]
    now += 3600.0
    assert [await ask() > 0 for _ in range(7)] == [False] * 6 + [True]
    tenant = Tenant(name="rare", requests_per_minute=0.5)
    assert [await ask() for _ in range(2)] == [0.0, 120.0]


async def turns(queue: FairQueue, asked: list[tuple[str, float, float]]) -> list[str]:
    """In which order tenants get their turns, who ask at once while nobody has one."""
    order: list[str] = []

    async def ask(tenant: str, weight: float, cost: float) -> None:
        async with queue.turn(tenant, weight, cost):
            order.append(tenant)
            await asyncio.sleep(0)

    async with AsyncExitStack() as busy:
        await busy.enter_async_context(queue.turn("first", 1.0, 0.0))
        asking = [asyncio.create_task(ask(*each)) for each in asked]
        while queue.num_waiting < len(asked):  # noqa: ASYNC110 - a matter of one round of the loop
            await asyncio.sleep(0)
    await asyncio.gather(*asking)
    return order


async def test_a_busy_tenant_delays_itself() -> None:
    order = await turns(FairQueue(1, 1000), [("busy", 1.0, 1.0)] * 50 + [("calm", 1.0, 1.0)] * 3)
    assert Counter(order) == {"busy": 50, "calm": 3}
    assert max(index for index, tenant in enumerate(order) if tenant == "calm") <= 6


async def test_turns_go_round_by_weight_and_cost() -> None:
    order = await turns(FairQueue(1, 1000), [("light", 1.0, 1.0)] * 40 + [("heavy", 3.0, 1.0)] * 40)
    assert Counter(order[:20])["heavy"] == pytest.approx(15, abs=2)
    order = await turns(FairQueue(1, 1000), [("many", 1.0, 4.0)] * 40 + [("one", 1.0, 1.0)] * 40)
    assert Counter(order[:20])["one"] == pytest.approx(16, abs=2)


async def test_nobody_waits_beyond_the_bound_and_who_leaves_frees_a_place() -> None:
    queue = FairQueue(1, 2)
    async with queue.turn("a", 1.0, 1.0):
        waiting = [asyncio.create_task(queue.turn("a", 1.0, 1.0).__aenter__()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await queue.turn("b", 1.0, 1.0).__aenter__()
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
        assert queue.num_waiting == 1
    await waiting[1]
    assert queue.num_waiting == 0


async def test_a_turn_that_comes_to_somebody_who_leaves_goes_on_to_the_next() -> None:
    queue = FairQueue(1, 10)
    first = queue.turn("a", 1.0, 1.0)
    await first.__aenter__()
    leaving = asyncio.create_task(queue.turn("a", 1.0, 1.0).__aenter__())
    staying = asyncio.create_task(queue.turn("a", 1.0, 1.0).__aenter__())
    await asyncio.sleep(0)
    await first.__aexit__(None, None, None)  # gives the turn to who leaves in the same moment
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    async with asyncio.timeout(10):
        await staying


async def test_who_leaves_in_the_moment_a_turn_is_given_is_passed_by() -> None:
    queue = FairQueue(1, 10)
    first = queue.turn("a", 1.0, 1.0)
    await first.__aenter__()
    leaving = asyncio.create_task(queue.turn("a", 1.0, 1.0).__aenter__())
    staying = asyncio.create_task(queue.turn("a", 1.0, 1.0).__aenter__())
    await asyncio.sleep(0)
    leaving.cancel()  # it has not heard of it yet
    await first.__aexit__(None, None, None)
    with pytest.raises(asyncio.CancelledError):
        await leaving
    async with asyncio.timeout(10):
        await staying
    assert queue.num_waiting == 0


async def test_thousands_who_leave_at_once_hold_nobody_up() -> None:
    queue, most = FairQueue(1, 5000), 5000
    async with queue.turn("a", 1.0, 1.0):
        waiting = [asyncio.create_task(queue.turn("a", 1.0, 1.0).__aenter__()) for _ in range(most)]
        await asyncio.sleep(0)
        assert queue.num_waiting == most
        for task in waiting[1:]:
            task.cancel()
        async with asyncio.timeout(5):  # it took 8 s when each was looked for in turn
            await asyncio.gather(*waiting[1:], return_exceptions=True)
        assert queue.num_waiting == 1
    await waiting[0]
    assert queue.num_waiting == 0
