"""Worker processes: started, waited for, stopped, and never left behind.

A worker holds one end of a socket pair whose other end only this process has. It says there that it
is up, and it ends when the pair breaks: by our closing it, or by our death of any kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import structlog

from lite_llm.agent.settings import AgentSettings
from lite_llm.agent.state_directory import StateDirectory
from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import AgentLost, LiteLLMError, WorkerCrashed
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.wire import error_from, open_channel

if TYPE_CHECKING:
    from lite_llm.proto.v1.agent_pb2_grpc import AgentAsyncStub

MODULE = "lite_llm.engine.worker"  # a name, not an import: this process does without torch
SPIN = {"GOMP_SPINCOUNT": "50000"}
"""How often OpenMP's idle threads look for work before they sleep. By default they do for
milliseconds, which on cores that workers share makes two threads ten times slower than one."""
OBITUARY_SECONDS = 5.0  # between a broken connection and the news of its process's end

log = structlog.get_logger(__name__)
_numbers = count()


class Worker:
    """A process that answers."""

    def __init__(self, model: ModelRef, process: Process, stub: AgentAsyncStub, path: Path) -> None:
        self.model = model
        self.pid = process.pid
        self.stub = stub
        self.log_path = path
        self._process = process

    async def wait_ended(self) -> WorkerCrashed:
        """Return when the process has ended, with how it did."""
        return _crashed(self.model, _how(await self._process.wait()), self.log_path)

    async def error_from(self, failure: grpc.aio.AioRpcError) -> LiteLLMError:
        """What a failed call means: the worker's own error, or the end of the worker."""
        error = error_from(failure, where=str(self.model))
        if not isinstance(error, AgentLost):
            return error
        try:
            async with asyncio.timeout(OBITUARY_SECONDS):
                return await self.wait_ended()
        except TimeoutError:
            return _crashed(self.model, "does not answer", self.log_path)


@asynccontextmanager
async def open_worker(
    model: ModelRef, directory: StateDirectory, settings: AgentSettings
) -> AsyncIterator[Worker]:
    """A worker for ``model`` that answers; it is gone when the block ends.

    :class:`WorkerCrashed` if it ends, or stays silent for ``start_seconds``, before it answers.
    """
    directory.make()
    path = directory.sockets / f"{next(_numbers)}.sock"
    log_path = directory.logs / f"{model.namespace}.{model.name}.log"
    ours, theirs = socket.socketpair()
    with ours:
        with theirs, log_path.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", MODULE),  # -P: nothing from the current directory
                *("--socket", str(path), "--threads", str(settings.worker_threads)),
                *("--lifeline", str(theirs.fileno())),
                stdin=DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                env={**SPIN, **os.environ},
                start_new_session=True,  # ^C in a terminal is for us; we stop our workers
            )
        log.info("worker started", model=str(model), pid=process.pid, path=str(log_path))
        try:
            await _wait_up(ours, model, process, log_path, settings.start_seconds)
            async with open_channel(f"unix:{path}") as channel:
                yield Worker(model, process, AgentStub(channel), log_path)
        finally:
            await _stop(process, settings.stop_seconds)
            path.unlink(missing_ok=True)
            log.info("worker ended", model=str(model), exit_status=process.returncode)


async def _wait_up(
    lifeline: socket.socket, model: ModelRef, process: Process, log_path: Path, seconds: float
) -> None:
    lifeline.setblocking(False)
    try:
        async with asyncio.timeout(seconds):
            if not await asyncio.get_running_loop().sock_recv(lifeline, 1):
                raise _crashed(model, _how(await process.wait()), log_path)
    except TimeoutError as error:
        raise _crashed(model, f"did not answer within {seconds:g} s", log_path) from error


async def _stop(process: Process, seconds: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _crashed(model: ModelRef, how: str, log_path: Path) -> WorkerCrashed:
    return WorkerCrashed(
        f"the worker of {model} {how}",
        where=str(model),
        remedy=f"load the model again; {log_path} may tell why",
    )


def _how(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    return f"was ended by {signal.Signals(-status).name}"
