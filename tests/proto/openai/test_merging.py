from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from lite_llm.openai.merging import merged


class Source:
    """A stream that counts what was taken from it."""

    def __init__(self, length: int, failure: Exception | None = None) -> None:
        self.taken = 0
        self.closed = False
        self._length = length
        self._failure = failure

    async def items(self) -> AsyncGenerator[int]:
        try:
            for item in range(self._length):
                self.taken += 1
                yield item
            if self._failure:
                raise self._failure
        finally:
            self.closed = True


@pytest.mark.parametrize("count", [1, 2, 7])
async def test_every_item_comes_in_its_stream_s_order(count: int) -> None:
    sources = [Source(number + 3) for number in range(count)]
    got: list[list[int]] = [[] for _ in sources]
    async with merged([source.items() for source in sources]) as items:
        async for number, item in items:
            got[number].append(item)
    assert got == [[*range(number + 3)] for number in range(count)]
    assert all(source.closed for source in sources)


@pytest.mark.parametrize("count", [1, 3])
async def test_who_reads_slowly_slows_the_streams_down(count: int) -> None:
    sources = [Source(1000) for _ in range(count)]
    async with merged([source.items() for source in sources]) as items:
        await anext(items)
        for _ in range(100):
            await asyncio.sleep(0)
        # One read, one ready, and one in the hand of each that wants to be next.
        assert sum(source.taken for source in sources) <= 2 + count
    assert all(source.closed for source in sources)


@pytest.mark.parametrize("count", [1, 3])
async def test_a_failure_ends_all(count: int) -> None:
    sources = [Source(2, ValueError("broken")), *(Source(10**9) for _ in range(count - 1))]

    async def read() -> None:
        async with merged([source.items() for source in sources]) as items:
            async for _ in items:
                pass

    with pytest.raises(ValueError, match="broken"):
        await read()
    assert all(source.closed for source in sources)


async def test_streams_that_wait_are_closed_too() -> None:
    closed = asyncio.Event()

    async def waiting() -> AsyncGenerator[int]:
        try:
            yield 0
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with merged([waiting(), waiting()]) as items:
        await anext(items)
        await anext(items)
    assert closed.is_set()
