"""The starter's end of :mod:`lite_llm.backends.prefork`: workers that are there in milliseconds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from lite_llm.backends.prefork import ENVIRONMENT
from lite_llm.contracts.errors import WorkerCrashed

MODULE: Final = "lite_llm.backends.prefork"
UNKNOWN: Final = os.EX_SOFTWARE  # status of a worker that nobody has seen end
_MESSAGE_BYTES: Final = 4096
_PATIENCE_SECONDS: Final = 5.0  # with a process whose work takes milliseconds


class ForkedProcess:
    """As much of ``asyncio.subprocess.Process`` as whoever watches over a worker uses."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = pidfd
        self._ended = asyncio.Event()

    async def wait(self) -> int:
        """The exit status once it has ended; negative: the number of a signal."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        """Ask it to stop; ``ProcessLookupError`` if it has ended."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it; ``ProcessLookupError`` if it has ended."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.returncode is not None:
            raise ProcessLookupError
        signal.pidfd_send_signal(self._pidfd, number)

    def end(self, status: int) -> None:
        """It has ended so. Called by the one who knows, once."""
        self.returncode = status
        os.close(self._pidfd)
        self._ended.set()

    def watch_end(self, loop: asyncio.AbstractEventLoop) -> None:
        """Nobody is left who could tell how it ends: see by ourselves that it does."""

        def ended() -> None:
            loop.remove_reader(self._pidfd)
            self.end(UNKNOWN)

        loop.add_reader(self._pidfd, ended)


class Prefork:
    """A process that forks workers. Where it is of no use (any more), start them the long way."""

    def __init__(self, control: socket.socket) -> None:
        self.is_ready = False
        """Whether :meth:`start` can be called: not before all is imported, nor after its end."""
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(control, self._read)
        self._asked: deque[asyncio.Future[ForkedProcess]] = deque()
        self._running: dict[int, ForkedProcess] = {}
        self._changed = asyncio.Event()

    async def wait_ready(self) -> bool:
        """Whether it has become ready; False if it ended instead."""
        await self._changed.wait()
        return self.is_ready

    async def start(self, arguments: Sequence[str], *, lifeline: int, output: int) -> ForkedProcess:
        """A worker with these arguments, and ``--lifeline`` with its own copy of ``lifeline``.

        ``output`` is its standard output and error. Raises :class:`WorkerCrashed` if the prefork
        has ended, takes no request, or does not answer, which ends it.
        """
        if not self.is_ready:
            raise WorkerCrashed("the prefork has ended", remedy="start the worker without it")
        request = [json.dumps(list(arguments)).encode()]
        try:
            socket.send_fds(self._control, request, [lifeline, output])
        except OSError as error:
            raise WorkerCrashed(
                f"the prefork takes no request: {error.strerror}",
                remedy="start the worker without it",
            ) from error
        asked: asyncio.Future[ForkedProcess] = self._loop.create_future()
        self._asked.append(asked)  # only now: answers come in the order of what was sent
        # A caller that leaves now must not leave a worker behind: its own lifeline sees to that.
        impatience = self._loop.call_later(_PATIENCE_SECONDS, self.close)
        try:
            return await asyncio.shield(asked)
        finally:
            impatience.cancel()

    def close(self) -> None:
        """Let it end; what it forked goes on, and is told of no more. May be called again."""
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control)
            self._control.close()
            self._lost()

    def _read(self) -> None:
        try:
            data, files, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES, 1)
        except BlockingIOError:
            return
        except OSError:
            data, files = b"", []
        if not data:
            self.close()
            return
        self._understand(json.loads(data), files)

    def _understand(self, told: dict[str, Any], files: list[int]) -> None:
        match told:
            case {"ready": True}:
                self.is_ready = True
                self._changed.set()
            case {"pid": int(pid)}:
                process = ForkedProcess(pid, files[0])
                self._running[pid] = process
                asked = self._asked.popleft()
                if not asked.done():
                    asked.set_result(process)
            case {"ended": int(pid), "status": int(status)}:
                self._running.pop(pid).end(status)

    def _lost(self) -> None:
        self.is_ready = False
        self._changed.set()
        while self._asked:
            asked = self._asked.popleft()
            if not asked.done():
                asked.set_exception(WorkerCrashed("the prefork has ended"))
        for process in self._running.values():
            process.watch_end(self._loop)
        self._running.clear()


@asynccontextmanager
async def prefork(
    module: str, *calls: str, environment: dict[str, str] | None = None
) -> AsyncIterator[Prefork]:
    """Forks workers of ``module`` while the block runs; it is soon ready, and need not be."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    try:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", MODULE, "--control", str(theirs.fileno())),
                *("--module", module, *(word for call in calls for word in ("--call", call))),
                pass_fds=[theirs.fileno()],
                env={**os.environ, **ENVIRONMENT, **(environment or {})},
                start_new_session=True,
            )
    except BaseException:
        ours.close()
        raise
    prefork = Prefork(ours)
    try:
        yield prefork
    finally:
        if not prefork.is_ready:  # it may be busy importing for long, and has forked nothing
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        prefork.close()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
