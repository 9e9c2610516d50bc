"""How a program of ours ends: when it is done, or when it is told to, cleaning up behind itself."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def run(program: Coroutine[Any, Any, None]) -> None:
    """Run to the end, or until SIGINT or SIGTERM cancels it; a second signal kills."""
    asyncio.run(_until_told(program))


async def _until_told(program: Coroutine[Any, Any, None]) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(program)
    signals = (signal.SIGINT, signal.SIGTERM)

    def stop() -> None:
        for number in signals:
            loop.remove_signal_handler(number)
        task.cancel()

    for number in signals:
        loop.add_signal_handler(number, stop)
    with suppress(asyncio.CancelledError):
        await task


@contextmanager
def state_directory(given: Path | None) -> Iterator[Path]:
    """``given``, or a new one that is gone afterwards."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="lite-llm-") as made:
        yield Path(made)
