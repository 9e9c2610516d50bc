from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from lite_llm.placement import Observed


async def test_a_condition_is_met_now_or_later() -> None:
    number = Observed(1)
    assert await number.wait_until(lambda value: value * 10 if value > 0 else None) == 10
    waiting = asyncio.create_task(number.wait_until(lambda value: value if value > 2 else None))
    await asyncio.sleep(0)
    number.set(2)
    await asyncio.sleep(0)
    assert not waiting.done()
    number.set(3)
    number.set(4)
    assert await waiting == 4


async def test_what_a_condition_raises_ends_the_wait() -> None:
    number = Observed(1)

    def known(value: int) -> str | None:
        return {1: None}[value]

    waiting = asyncio.create_task(number.wait_until(known))
    await asyncio.sleep(0)
    number.set(5)
    with pytest.raises(KeyError):
        await waiting


async def test_changes_begin_with_now_and_end_with_the_latest() -> None:
    number = Observed(1)
    async with aclosing(number.changes()) as changes:
        assert await anext(changes) == 1
        number.set(2)
        number.set(3)
        assert await anext(changes) == 3
        late = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        assert not late.done()
        number.set(4)
        assert await late == 4


async def test_a_change_is_another_value_not_another_call() -> None:
    first, second = [1], [1]
    observed = Observed(first)
    waiting = asyncio.create_task(observed.wait_changed(first))
    await asyncio.sleep(0)
    observed.set(first)
    await asyncio.sleep(0.01)
    assert not waiting.done()
    observed.set(second)
    await waiting
    await observed.wait_changed(first)
