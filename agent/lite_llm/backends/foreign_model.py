"""A foreign server that holds a model: started, waited for, kept in sight, asked for answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lite_llm.backends.checkpoints import weight_bytes
from lite_llm.backends.generation import Generation, understanding
from lite_llm.backends.interface import Backend, Launch
from lite_llm.backends.measures import Measures
from lite_llm.backends.profiles import profile_for
from lite_llm.backends.refusals import refuse_guarantees
from lite_llm.backends.server_process import ServerProcess, server_process
from lite_llm.backends.upstream import Upstream
from lite_llm.contracts.errors import DeadlineExceeded, InvalidRequest, WorkerCrashed
from lite_llm.proto.v1.generate_pb2 import GenerateStart
from lite_llm.proto.v1.model_pb2 import ModelSpec

FIRST_PROBE_SECONDS, LAST_PROBE_SECONDS = 0.05, 1.0  # between two, while a server starts
WATCH_SECONDS: Final = 5.0  # between two, while it serves
MAX_SEQUENCES: Final = 128  # of one request, as with our own engine


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How foreign servers are run here."""

    socket: Path
    """A path of our own; the server's lies beside it."""
    threads: int
    start_seconds: float = 1800.0
    """Until it is ready: large models from slow disks, and kernels that are compiled, take long."""
    silence_seconds: float = 300.0
    """Without a word in an answer, after which it is given up; waiting in a queue is silent."""
    stop_seconds: float = 5.0
    """To stop in, before it is killed; less than the agent gives to us."""


class ForeignModel:
    """Answers requests while its server lives."""

    def __init__(
        self, backend: Backend, launch: Launch, process: ServerProcess, upstream: Upstream
    ) -> None:
        self.context_tokens = 0
        self.measures = Measures(launch.model)
        self.probes_answered = 0
        self.is_probing = False
        """A probe has no answer yet."""
        self._backend = backend
        self._launch = launch
        self._process = process
        self._upstream = upstream

    async def wait_ready(self, start_seconds: float) -> AsyncGenerator[float]:
        """The seconds that it has taken so far, now and then, until it takes requests.

        :class:`WorkerCrashed` if it ends before, ``DeadlineExceeded`` after ``start_seconds``.
        """
        began, pause = time.monotonic(), FIRST_PROBE_SECONDS
        ended = asyncio.create_task(self._process.wait_ended())
        try:
            while not await self._upstream.is_ready(self._backend.ready_path):
                await asyncio.wait([ended], timeout=pause)
                if ended.done():
                    raise self.crashed(ended.result())
                if (elapsed := time.monotonic() - began) > start_seconds:
                    raise DeadlineExceeded(
                        f"the {self._backend.name} server is not ready after {start_seconds:g} s",
                        where=self._launch.model,
                        remedy="its log may tell why; give it more time if it is only slow",
                    )
                pause = min(2 * pause, LAST_PROBE_SECONDS)
                yield elapsed
        finally:
            ended.cancel()
        with understanding(self._backend):
            self.context_tokens = await self._backend.context_tokens(self._upstream, self._launch)

    async def watch(self) -> WorkerCrashed:
        """Keep asking how it is; return when it has ended, with how."""
        asking = asyncio.create_task(self._ask())
        try:
            return self.crashed(await self._process.wait_ended())
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def generation(self, start: GenerateStart) -> Generation:
        """An answer to ``start``; raises what can't be asked of this server."""
        n = start.sampling.n or 1
        if n > MAX_SEQUENCES:
            raise InvalidRequest(f"n is {n}", where="n", remedy=f"at most {MAX_SEQUENCES}")
        refuse_guarantees(self._backend.name, start)
        with understanding(self._backend):
            calls = [
                await self._backend.call(start, index, self._upstream, self._launch)
                for index in range(n)
            ]
        return Generation(self._backend, self._upstream, calls)

    async def metrics(self) -> str:
        """Prometheus' text."""
        path = self._backend.metrics_path
        told = await self._upstream.text(path) if path else ""
        return self.measures.text(told, self._backend.metric_names)

    def crashed(self, how: str) -> WorkerCrashed:
        """The error for a server that ``how`` says the end of."""
        return WorkerCrashed(
            f"the {self._backend.name} server {how}",
            where=self._launch.model,
            remedy="load the model again; the log of its worker may tell why",
        )

    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self.is_probing = True
            if await self._upstream.is_ready(self._backend.ready_path):
                self.probes_answered += 1
                self.is_probing = False


@asynccontextmanager
async def foreign_model(
    backend: Backend, spec: ModelSpec, name: str, settings: ServerSettings
) -> AsyncIterator[tuple[ForeignModel, int]]:
    """A server for ``spec`` under ``name``, started but not ready, and the bytes of its weights.

    It is gone when the block ends. Raises what is wrong with ``spec``, before anything starts.
    """
    source = Path(spec.source.uri)
    size = weight_bytes(source)
    launch = Launch(
        source=source,
        model=name,
        profile=profile_for(spec.profile, size),
        threads=settings.threads,
        socket=settings.socket.with_suffix(".server.sock"),
        port=_free_port(),
    )
    command = backend.command(launch)
    async with AsyncExitStack() as held:
        held.callback(launch.socket.unlink, missing_ok=True)
        launch.socket.unlink(missing_ok=True)
        process = await held.enter_async_context(
            server_process(command, stop_seconds=settings.stop_seconds)
        )
        upstream = await held.enter_async_context(
            Upstream(
                f"the {backend.name} server",
                command.address,
                silence_seconds=settings.silence_seconds,
            )
        )
        yield ForeignModel(backend, launch, process, upstream), size


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
