"""A foreign server as our child: started, watched, stopped, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import structlog

from lite_llm.backends.interface import Command

TETHER: Final = Path(__file__).with_name("tether.py")

log = structlog.get_logger(__name__)


class ServerProcess:
    """It runs, or has ended."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing to wait for."""
        return self._process.returncode is not None

    async def wait_ended(self) -> str:
        """Return when it has ended, with how: "ended with status 1"."""
        return _how(await self._process.wait())


@asynccontextmanager
async def server_process(command: Command, *, stop_seconds: float) -> AsyncIterator[ServerProcess]:
    """The program of ``command``, with our output as its own; gone when the block ends.

    It is asked to stop, and killed with all that it started after ``stop_seconds``; if this process
    dies, at once.
    """
    process = await asyncio.create_subprocess_exec(
        # -I -S: it needs nothing but the standard library, and starts in no time.
        *(sys.executable, "-I", "-S", str(TETHER), *command.arguments),
        stdin=PIPE,
        env={**os.environ, **command.environment},
        start_new_session=True,
    )
    log.info("server started", program=command.arguments[0], pid=process.pid)
    try:
        yield ServerProcess(process)
    finally:
        await _stop(process, stop_seconds)
        log.info("server ended", program=command.arguments[0], exit_status=process.returncode)


async def _stop(process: asyncio.subprocess.Process, seconds: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        log.warning("server does not stop", pid=process.pid, seconds=seconds)
    finally:  # also where nobody waits any longer
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


def _how(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    return f"was ended by {signal.Signals(-status).name}"
