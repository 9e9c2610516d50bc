"""The queue behind the operator's workers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic

from lite_llm.controllers.wakeups import Wakeups

Look = Callable[[str], Awaitable[float | None]]


@asynccontextmanager
async def served(bell: Wakeups[str], look: Look, workers: int = 1):  # type: ignore[no-untyped-def] # a fixture
    task = asyncio.create_task(bell.serve(look, workers=workers))
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def wait_for(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - counts of a list have no event
            await asyncio.sleep(0.005)


async def test_a_key_that_rang_often_is_looked_at_once() -> None:
    bell: Wakeups[str] = Wakeups()
    looked: list[str] = []

    async def look(key: str) -> None:
        looked.append(key)

    for _ in range(5):
        bell.ring(["a"])
    bell.ring(["b"])
    assert bell.num_waiting == 2
    async with served(bell, look):
        await wait_for(lambda: bell.is_idle)
    assert looked == ["a", "b"]


async def test_what_fails_comes_again_and_holds_nobody_up() -> None:
    bell: Wakeups[str] = Wakeups(first_retry_seconds=0.01)
    looked: list[str] = []

    async def look(key: str) -> None:
        looked.append(key)
        if looked.count("bad") < 3 and key == "bad":
            raise RuntimeError("store away")

    bell.ring(["bad", "good"])
    async with served(bell, look):
        await wait_for(lambda: bell.is_idle)
    assert looked == ["bad", "good", "bad", "bad"]


async def test_no_two_workers_look_at_one_key() -> None:
    bell: Wakeups[str] = Wakeups()
    busy, most, looks = 0, 0, 0

    async def look(key: str) -> None:
        nonlocal busy, most, looks
        busy, looks = busy + 1, looks + 1
        most = max(most, busy)
        if looks < 5:
            bell.ring([key])
        await asyncio.sleep(0.001)
        busy -= 1

    bell.ring(["a"])
    async with served(bell, look, workers=4):
        await wait_for(lambda: looks == 5 and bell.is_idle)
    assert most == 1


async def test_different_keys_are_looked_at_together() -> None:
    bell: Wakeups[str] = Wakeups()
    both = asyncio.Barrier(2)

    async def look(key: str) -> None:
        await both.wait()

    bell.ring(["a", "b"])
    async with served(bell, look, workers=2):
        await wait_for(lambda: bell.is_idle)


async def test_looks_at_one_key_are_paced_and_the_last_ring_is_heard() -> None:
    bell: Wakeups[str] = Wakeups(pace_seconds=0.2)
    state, seen = 0, []

    async def look(key: str) -> None:
        seen.append(state)

    async with served(bell, look):
        for state in range(50):  # noqa: B007 - look reads it
            bell.ring(["a"])
            await asyncio.sleep(0.002)
        await wait_for(lambda: seen[-1:] == [49])
    assert len(seen) < 10


async def test_a_look_may_ask_for_another() -> None:
    bell: Wakeups[str] = Wakeups()
    looks = 0

    async def look(key: str) -> float | None:
        nonlocal looks
        looks += 1
        return 0.01 if looks == 1 else None

    bell.ring(["a"])
    async with served(bell, look):
        await wait_for(lambda: looks == 2)


async def test_it_is_stuck_if_some_wait_and_none_is_taken() -> None:
    bell: Wakeups[str] = Wakeups()
    assert bell.stuck_seconds == 0.0
    bell.ring(["a"])
    await asyncio.sleep(0.02)
    bell.ring(["a", "b"])
    assert bell.stuck_seconds >= 0.02


async def test_a_long_queue_that_moves_is_not_stuck() -> None:
    bell: Wakeups[str] = Wakeups(pace_seconds=60.0)
    ahead: list[float] = []  # by how much the queue is older than it is stuck
    began = monotonic()

    async def look(key: str) -> None:
        await asyncio.sleep(0.01)
        ahead.append(monotonic() - began - bell.stuck_seconds)

    bell.ring(map(str, range(50)))
    async with served(bell, look):
        await wait_for(lambda: bell.num_waiting == 0)
    assert ahead[-1] > 0.25
