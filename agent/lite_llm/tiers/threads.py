"""Blocking work on a pool's thread, awaited in a way that never leaves it behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


async def on_thread(pool: ThreadPoolExecutor, work: Callable[..., T], *args: object) -> T:
    """The result of ``work(*args)``.

    Cancelled before the work began, it never begins. Cancelled later, the call returns only when
    the thread is done: it works on memory that the caller is about to free.
    """
    job = pool.submit(work, *args)
    running = asyncio.wrap_future(job)
    running.add_done_callback(_seen)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        job.cancel()
        while not job.done():
            await _settled(running)
        raise


def _seen(running: asyncio.Future[T]) -> None:
    # Or an error after a cancellation would be reported as one that nobody asked for.
    running.cancelled() or running.exception()


async def _settled(running: asyncio.Future[T]) -> None:
    try:
        await asyncio.wait([running])
    except asyncio.CancelledError:
        return  # cancelled again; the thread has not heard of it either
