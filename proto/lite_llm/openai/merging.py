"""Several streams read side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


@asynccontextmanager
async def merged(
    streams: Sequence[AsyncGenerator[T]],
) -> AsyncIterator[AsyncIterator[tuple[int, T]]]:
    """All items as they come, each with the number of its stream; what one raises ends them all.

    Holds one item for each stream at most: who reads slowly slows the streams down. However the
    block ends, the streams are closed.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as only, aclosing(_numbered(only)) as numbered:
            yield numbered
        return
    ready: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue(1)

    async def pump(number: int, stream: AsyncGenerator[T]) -> None:
        try:
            async with aclosing(stream) as items:
                async for item in items:
                    await ready.put((number, item))
        except Exception as error:  # whatever it is, it is raised where the items are read
            await ready.put(error)
        else:
            await ready.put(None)

    async def items() -> AsyncGenerator[tuple[int, T]]:
        running = len(streams)
        while running:
            item = await ready.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item

    pumps = [asyncio.create_task(pump(number, stream)) for number, stream in enumerate(streams)]
    try:
        async with aclosing(items()) as reading:
            yield reading
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _numbered(stream: AsyncIterator[T]) -> AsyncGenerator[tuple[int, T]]:
    async for item in stream:
        yield 0, item
