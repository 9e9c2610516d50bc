"""Worker processes: started, waited for, stopped, and never left behind.

A worker holds one end of a socket pair whose other end only this process has. It says there that it
is up, and it ends when the pair breaks: by our closing it, or by our death of any kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

import grpc.aio
import structlog

from lite_llm.agent.orphans import PID_SUFFIX, note
from lite_llm.agent.settings import AgentSettings
from lite_llm.agent.state_directory import StateDirectory
from lite_llm.backends import NATIVE, worker_module
from lite_llm.backends.forked import ForkedProcess, Prefork, prefork
from lite_llm.backends.start_cache import StartCache
from lite_llm.contracts import LiteLLMError, ModelRef
from lite_llm.contracts.errors import AgentLost, WorkerCrashed
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.wire import Line, error_from, open_channel

if TYPE_CHECKING:
    from lite_llm.proto.v1.agent_pb2_grpc import AgentAsyncStub

SPIN = {"GOMP_SPINCOUNT": "50000"}
"""How often OpenMP's idle threads look for work before they sleep. By default they do for
milliseconds, which on cores that workers share makes two threads ten times slower than one."""
DEVICE_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""The driver's, so that the first GPU is to workers the one whose memory the agent counts."""
WARM_UP = "lite_llm.kernels:warm_up"
"""Called once in the process that workers are forked from, after the imports."""
COMPILED_BYTES = 16 << 30  # of kernels for all models that were ever here, the oldest leave
OBITUARY_SECONDS = 5.0  # between a broken connection and the news of its process's end
LAST_WORDS = 200  # characters of what a worker said at last, in the error about its end

log = structlog.get_logger(__name__)
_numbers = count()


@dataclass(eq=False)
class _Running:
    """A process, and what belongs to it."""

    process: Process | ForkedProcess
    lifeline: socket.socket
    socket_path: Path
    pid_path: Path
    log_path: Path
    verdict: str = ""
    """Why we ended it; empty: it was not us."""

    def crash(self, who: str, how: str) -> WorkerCrashed:
        words = _last_words(self.log_path)
        return WorkerCrashed(
            f"{who} {self.verdict or how}{words}",
            where=who.rpartition(" ")[2],
            remedy=f"load the model again; {self.log_path} may tell why",
        )


class Worker:
    """A process that answers."""

    def __init__(self, model: ModelRef, running: _Running, stub: AgentAsyncStub) -> None:
        self.model = model
        self.pid = running.process.pid
        self.stub = stub
        self.line = Line(stub)
        """For generations: what a step says to all of them comes in one message."""
        self._running = running

    async def wait_ended(self) -> WorkerCrashed:
        """Return when the process has ended, with how it did."""
        status = await self._running.process.wait()
        return self._running.crash(f"the worker of {self.model}", _how(status))

    async def error_from(self, failure: grpc.aio.AioRpcError) -> LiteLLMError:
        """What a failed call means: the worker's own error, or the end of the worker."""
        error = error_from(failure, where=str(self.model))
        if not isinstance(error, AgentLost):
            return error
        try:
            async with asyncio.timeout(OBITUARY_SECONDS):
                return await self.wait_ended()
        except TimeoutError:
            return self._running.crash(f"the worker of {self.model}", "does not answer")

    def kill(self, why: str) -> None:
        """End it at once; ``why`` becomes the reason of its end: "made no step for 60 s"."""
        self._running.verdict = why
        with contextlib.suppress(ProcessLookupError):
            self._running.process.kill()


class Workers:
    """Starts workers; use with ``async with``."""

    def __init__(self, directory: StateDirectory, settings: AgentSettings) -> None:
        self._directory = directory
        self._settings = settings
        self._closing = AsyncExitStack()
        self._forks: Prefork | None = None
        self._environment = SPIN | DEVICE_ORDER

    async def __aenter__(self) -> Self:
        if self._settings.compiled_directory is not None:
            compiled = StartCache(self._settings.compiled_directory, max_bytes=COMPILED_BYTES)
            await asyncio.to_thread(compiled.trim)
            self._environment |= compiled.environment()
        if self._settings.prefork:
            made = prefork(worker_module(NATIVE), WARM_UP, environment=self._environment)
            self._forks = await self._closing.enter_async_context(made)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()

    @asynccontextmanager
    async def open(self, model: ModelRef, backend: str = NATIVE) -> AsyncIterator[Worker]:
        """A worker for ``model`` that answers; it is gone when the block ends.

        ``backend`` says which engine runs it. :class:`WorkerCrashed` if it ends, or stays silent
        for ``start_seconds``, before it answers.
        """
        running = await self._start(model, backend or NATIVE)
        try:
            async with open_channel(f"unix:{running.socket_path}") as channel:
                worker = Worker(model, running, AgentStub(channel))
                try:
                    yield worker
                finally:
                    worker.line.close()
        finally:
            await self._stop(running)
            log.info("worker ended", model=str(model), exit_status=running.process.returncode)

    async def _start(self, model: ModelRef, backend: str) -> _Running:
        self._directory.make()
        path = self._directory.sockets / f"{next(_numbers)}.sock"
        log_path = self._log_path(model)
        ours, theirs = socket.socketpair()
        try:
            with theirs, _opened(log_path) as output:
                arguments = ["--socket", str(path), "--threads", str(self._settings.worker_threads)]
                if backend == NATIVE:
                    arguments += self._engine_options(path.stem)
                lifeline = theirs.fileno()
                process = (
                    await self._forked(arguments, lifeline, output.fileno())
                    if backend == NATIVE
                    else None
                ) or await self._spawned(
                    worker_module(backend), arguments, lifeline, output.fileno()
                )
        except BaseException:
            ours.close()
            raise
        running = _Running(process, ours, path, path.with_suffix(PID_SUFFIX), log_path)
        try:
            self._note(running.pid_path, process.pid)
            log.info("worker started", model=str(model), pid=process.pid, path=str(log_path))
            await self._wait_up(running, f"the worker of {model}")
        except BaseException:
            await self._stop(running)
            raise
        return running

    async def _forked(
        self, arguments: list[str], lifeline: int, output: int
    ) -> ForkedProcess | None:
        """From the process that has imported everything; None where there is none."""
        # It began before us: waiting for it is never slower than another start.
        if self._forks is None or not await self._forks.wait_ready():
            return None
        forks = self._forks
        forking = asyncio.ensure_future(forks.start(arguments, lifeline=lifeline, output=output))
        try:
            return await asyncio.shield(forking)
        except asyncio.CancelledError:
            with contextlib.suppress(WorkerCrashed, ProcessLookupError):
                process = await forking  # a matter of milliseconds
                process.kill()
                await process.wait()
            raise
        except WorkerCrashed as error:
            log.warning("workers can't be forked any more", error=str(error))
            return None

    async def _spawned(
        self, module: str, arguments: list[str], lifeline: int, output: int
    ) -> Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P"),  # nothing from the current directory
            *("-m", module),  # a name, not an import: this process does without torch
            *(*arguments, "--lifeline", str(lifeline)),
            stdin=DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[lifeline],
            env={**self._environment, **os.environ},
            start_new_session=True,  # ^C in a terminal is for us; we stop our workers
        )

    def _engine_options(self, number: str) -> list[str]:
        """That foreign engines do not have."""
        settings = self._settings
        options = ["--notes-directory", str(self._directory.notes), "--device", settings.device]
        if settings.kv_bytes is not None:
            options += ["--kv-bytes", str(settings.kv_bytes)]
        if settings.expert_hot_bytes is not None:
            options += ["--hot-bytes", str(settings.expert_hot_bytes)]
            options += ["--warm-bytes", str(settings.expert_warm_bytes)]
        if settings.kv_disk_bytes is not None:
            options += ["--kv-disk-directory", str(self._directory.kv / number)]
            options += ["--kv-disk-bytes", str(settings.kv_disk_bytes)]
        return options

    async def _wait_up(self, running: _Running, who: str) -> None:
        seconds = self._settings.start_seconds
        running.lifeline.setblocking(False)
        try:
            async with asyncio.timeout(seconds):
                if not await asyncio.get_running_loop().sock_recv(running.lifeline, 1):
                    raise running.crash(who, _how(await running.process.wait()))
        except TimeoutError as error:
            raise running.crash(who, f"did not answer within {seconds:g} s") from error

    def _log_path(self, model: ModelRef) -> Path:
        """Free for a new log; what the worker before said is kept under another name."""
        path = self._directory.logs / f"{model.namespace}.{model.name}.log"
        if path.exists():
            path.replace(path.with_suffix(".log.1"))
        return path

    @staticmethod
    def _note(path: Path, pid: int) -> None:
        """For an agent that comes after our crash; a full disk costs it the news of this one."""
        try:
            note(path, pid)
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has ended already, as will be told
        except OSError as error:
            log.warning("worker can't be written down", path=str(path), error=str(error))

    async def _stop(self, running: _Running) -> None:
        process = running.process
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self._settings.stop_seconds):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):  # it ended in that very moment
                process.kill()
            await process.wait()
        finally:
            running.lifeline.close()
            running.socket_path.unlink(missing_ok=True)
            running.pid_path.unlink(missing_ok=True)
            shutil.rmtree(self._directory.kv / running.socket_path.stem, ignore_errors=True)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:  # a model is worth more than its log
        log.warning("a worker's log can't be kept", path=str(path), error=str(error))
        return Path(os.devnull).open("wb")


def _last_words(path: Path) -> str:
    """What was said at last in words, and not in our own logs' JSON."""
    with contextlib.suppress(OSError):
        lines = path.read_bytes()[-4096:].decode(errors="replace").splitlines()
        said = [line.strip() for line in lines if line.strip() and not line.startswith("{")]
        if said:
            return f' ("{said[-1][:LAST_WORDS]}")'
    return ""


def _how(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    return f"was ended by {signal.Signals(-status).name}"
