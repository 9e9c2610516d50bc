"""Who gets the wire."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

from lite_llm.tiers.turns import Turns


async def test_two_loads_share_evenly_though_one_asks_for_more() -> None:
    turns, moved, order = Turns(1), Counter[str](), list[str]()

    async def move(name: str) -> None:
        order.append(name)
        await asyncio.sleep(0)
        turns.give_back()

    async def load(name: str, request: int, total: int) -> None:
        async with turns.joined(name), asyncio.TaskGroup() as group:
            while moved[name] < total:
                await turns.take(name, lambda: True)
                turns.charge(name, request)
                moved[name] += request
                group.create_task(move(name))

    await asyncio.gather(load("large", 8, 80), load("small", 1, 80))
    shared = order[:60]
    assert abs(8 * shared.count("large") - shared.count("small")) <= 16


async def test_a_newcomer_starts_level_and_starves_nobody() -> None:
    turns = Turns(1)
    async with turns.joined("old"):
        turns.charge("old", 1000)
        async with turns.joined("new"):
            assert turns._served["new"] == 1000


async def test_demand_goes_first_and_prefetch_may_become_demand() -> None:
    turns, order, urgent = Turns(1), list[str](), set[str]()

    async def once(name: str) -> None:
        await turns.take(name, lambda: name in urgent)
        order.append(name)
        turns.give_back()

    async with AsyncExitStack() as joined:
        for name in "abcd":
            await joined.enter_async_context(turns.joined(name))
        await turns.take("a", lambda: True)
        waiting = [asyncio.create_task(once(name)) for name in "bcd"]
        await asyncio.sleep(0)
        urgent.add("d")
        turns.give_back()
        await asyncio.gather(*waiting)
    assert order == ["d", "b", "c"]


async def test_cancelled_waiters_lose_no_turn() -> None:
    turns = Turns(1)
    async with turns.joined("a"):
        await turns.take("a", lambda: True)
        waiting = asyncio.create_task(turns.take("a", lambda: True))
        granted = asyncio.create_task(turns.take("a", lambda: True))
        await asyncio.sleep(0)
        waiting.cancel()
        turns.give_back()
        granted.cancel()
        await asyncio.gather(waiting, granted, return_exceptions=True)
        async with asyncio.timeout(10):
            await turns.take("a", lambda: True)
        turns.give_back()
