"""Waiting, for what only tells when it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

Eventually = Callable[[Callable[[], Any]], Awaitable[Any]]
SECONDS = 60.0


@pytest.fixture
def eventually() -> Eventually:
    """Waits until a condition holds, and gives what it returned."""

    async def wait(condition: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SECONDS
        while True:
            if found := condition():
                return found
            assert loop.time() < deadline, "it did not come to that in time"
            await asyncio.sleep(0.05)

    return wait
