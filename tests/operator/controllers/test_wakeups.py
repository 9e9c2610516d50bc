"""The queue behind the operator's one loop."""

import asyncio
from contextlib import suppress

from lite_llm.controllers.wakeups import Wakeups


async def served(bell: Wakeups[str, int], looked: list[tuple[str, int]], count: int) -> None:
    """Serve until ``count`` looks were taken; looks at "bad" fail the first time."""
    done = asyncio.Event()

    async def look(key: str, view: int) -> None:
        looked.append((key, view))
        if len(looked) == count:
            done.set()
        if key == "bad" and looked.count((key, view)) == 1:
            raise RuntimeError("store away")

    task = asyncio.create_task(bell.serve(look))
    await asyncio.wait_for(done.wait(), 10)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_only_the_newest_view_is_looked_at() -> None:
    bell: Wakeups[str, int] = Wakeups(retry_seconds=60)
    for view in range(5):
        bell.ring("a", view)
    bell.ring("b", 9)
    looked: list[tuple[str, int]] = []
    await served(bell, looked, 2)
    assert looked == [("a", 4), ("b", 9)]


async def test_what_fails_comes_again_and_holds_nobody_up() -> None:
    bell: Wakeups[str, int] = Wakeups(retry_seconds=0.01)
    bell.ring("bad", 1)
    bell.ring("good", 2)
    looked: list[tuple[str, int]] = []
    await served(bell, looked, 3)
    assert looked == [("bad", 1), ("good", 2), ("bad", 1)]


async def test_a_newer_view_is_not_undone_by_a_retry() -> None:
    bell: Wakeups[str, int] = Wakeups(retry_seconds=0.01)
    bell.ring("a", 1)
    looked: list[int] = []

    async def look(_: str, view: int) -> None:
        looked.append(view)
        if view == 1:
            asyncio.get_running_loop().call_soon(bell.ring, "a", 2)
            raise RuntimeError("store away")

    task = asyncio.create_task(bell.serve(look))
    await asyncio.sleep(0.2)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert looked == [1, 2]
