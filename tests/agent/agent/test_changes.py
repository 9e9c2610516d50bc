"""Whoever waits for a change hears of it, once."""

import asyncio

import pytest

from lite_llm.agent.changes import Changes


async def test_everyone_who_waits_is_woken() -> None:
    changes = Changes()
    waiting = [asyncio.create_task(changes.beyond(0)) for _ in range(3)]
    await asyncio.sleep(0)
    changes.notify()
    await asyncio.wait_for(asyncio.gather(*waiting), 10)


async def test_a_change_that_was_before_the_wait_counts() -> None:
    changes = Changes()
    changes.notify()
    changes.notify()
    await asyncio.wait_for(changes.beyond(0), 10)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(changes.beyond(changes.version), 0.05)
