"""One model on this agent: its state, its worker, and the requests that run there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc.aio
import structlog

from lite_llm.agent.changes import Changes
from lite_llm.agent.residency import Holding, words_for
from lite_llm.agent.settings import AgentSettings
from lite_llm.agent.state_directory import StateDirectory
from lite_llm.agent.streams import Stream
from lite_llm.agent.workers import Worker, open_worker
from lite_llm.contracts import LiteLLMError, ModelEvent, ModelRef, ModelState
from lite_llm.contracts.errors import AgentLost, Cancelled, Internal, NoAgent
from lite_llm.contracts.states import advanced
from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2
from lite_llm.proto.v1.generate_pb2 import LoadProgress
from lite_llm.wire import ref_to_proto
from lite_llm.wire.values import state_from_proto, state_to_proto

log = structlog.get_logger(__name__)


class HostedModel:
    """From its first load to its unload; a worker of its own runs it in between."""

    def __init__(self, ref: ModelRef, notify: Callable[[], None]) -> None:
        """``notify`` is called after every change, whatever changed."""
        self.ref = ref
        self.state = ModelState.INIT
        self.spec = model_pb2.ModelSpec()
        self.leaving = False
        """It is being unloaded; whoever wants it back has to wait for that."""
        self._reason = "declared"
        self._error: LiteLLMError | None = None
        self._progress = LoadProgress()
        self._worker: Worker | None = None
        self._released = asyncio.Event()
        self._streams: set[Stream] = set()
        self._context_tokens = 0
        self._changes = Changes()
        self._notify = notify

    @property
    def holding(self) -> Holding:
        """What there is to say about it now."""
        running = sum(stream.running for stream in self._streams)
        return Holding(
            ref=self.ref,
            state=self.state,
            reason=self._reason,
            loaded=self._worker is not None,
            weight_bytes=self._progress.total_bytes,
            running=running,
            waiting=len(self._streams) - running,
            generation=self.spec.generation,
            context_tokens=self._context_tokens,
        )

    def begin(self, spec: model_pb2.ModelSpec) -> None:
        """A load of ``spec`` is decided on: :meth:`run` follows, earlier faults are forgotten."""
        self.spec, self._error, self._progress = spec, None, LoadProgress()
        self._progressed(LoadProgress(phase=generate_pb2.LOAD_PHASE_QUEUE, remaining_seconds=-1.0))

    async def run(self, source: Path, directory: StateDirectory, settings: AgentSettings) -> None:
        """Load the weights in ``source`` into a worker and keep it until the model is released.

        Raises nothing of ours: what goes wrong is told in the state, its reason, and to those who
        follow the load.
        """
        try:
            async with open_worker(self.ref, directory, settings) as worker:
                await self._load(worker, source)
                self._step(ModelEvent.ACTIVATED, "serving")
                await self._until_released(worker)
        except LiteLLMError as error:
            self._failed(error)
        except Exception as error:  # of any kind: one model must not take the daemon along
            log.exception("model failed", model=str(self.ref))
            self._failed(Internal(f"{type(error).__name__} while holding {self.ref}"))
        finally:
            self._worker = None

    async def follow_load(self) -> AsyncIterator[LoadProgress]:
        """Progress until the model serves; raises what the load failed with.

        A slow reader misses steps in between, never the last one.
        """
        while True:
            version = self._changes.version
            yield self._told_progress()
            if self.state.takes_requests:
                return
            if self._error is not None:
                raise self._error
            await self._changes.beyond(version)

    def open_stream(
        self,
        first: generate_pb2.GenerateRequest,
        others: AsyncIterator[generate_pb2.GenerateRequest],
    ) -> Stream:
        """Send a request to the worker; :class:`NoAgent` unless the model takes requests."""
        if self._worker is None or not self.state.takes_requests:
            raise NoAgent(
                f"{self.ref} is {self.state} here: {self._reason}",
                where=str(self.ref),
                remedy="load it, or try another agent",
                retry_after=1.0,
            )
        stream = Stream(self._worker, first, others, self._stream_changed)
        self._streams.add(stream)
        self._changed()
        return stream

    def freeze(self, reason: str) -> None:
        """Take nothing new; what runs goes on."""
        if self.state is ModelState.ACTIVE:
            self._step(ModelEvent.FREEZE, reason)

    async def finish_streams(self, grace_seconds: float) -> int:
        """Let what runs come to its end, then take away the rest; returns how many that were."""
        try:
            async with asyncio.timeout(grace_seconds):
                while self._streams:
                    await self._changes.beyond(self._changes.version)
        except TimeoutError:
            pass
        return self._take_streams_away(
            AgentLost(
                f"{self.ref} leaves this agent: {self._reason}",
                where=str(self.ref),
                remedy="resume the stream on another agent",
            )
        )

    def release(self) -> None:
        """Let go of the worker of a frozen model; :meth:`run` then returns."""
        if self.state is ModelState.FROZEN:
            self._step(ModelEvent.RELEASED, "unloaded")
        self._released.set()

    def abandon(self) -> None:
        """Tell those who follow a load, if there is one, that it was given up."""
        self._error = Cancelled(f"the load of {self.ref} was given up", where=str(self.ref))
        self._changed()

    async def _load(self, worker: Worker, source: Path) -> None:
        spec = model_pb2.ModelSpec()
        spec.CopyFrom(self.spec)
        spec.source.uri = str(source)
        request = agent_pb2.LoadRequest(spec=spec)
        try:
            async for progress in worker.stub.Load(request):
                if self._worker is None and state_from_proto(progress.state) is ModelState.WARM:
                    self._worker = worker
                    recovering = self.state is ModelState.RECOVERING
                    event = ModelEvent.RECOVERED if recovering else ModelEvent.LOADED
                    self._step(event, words_for(progress))
                self._progressed(progress)
            report = await worker.stub.Status(agent_pb2.AgentStatusRequest())
        except grpc.aio.AioRpcError as failure:
            raise await worker.error_from(failure) from failure
        self._context_tokens = report.residencies[0].context_tokens

    async def _until_released(self, worker: Worker) -> None:
        ended = asyncio.create_task(worker.wait_ended())
        released = asyncio.create_task(self._released.wait())
        try:
            await asyncio.wait((ended, released), return_when=asyncio.FIRST_COMPLETED)
            if not released.done():
                # Before the connection is closed: that would tell them nothing of the reason.
                self._take_streams_away(ended.result())
                raise ended.result()
        finally:
            ended.cancel()
            released.cancel()

    def _take_streams_away(self, error: LiteLLMError) -> int:
        left = list(self._streams)
        for stream in left:
            stream.take_away(error)
        return len(left)

    def _failed(self, error: LiteLLMError) -> None:
        self._error, self._worker = error, None
        self._step(ModelEvent.FAILED, str(error))

    def _step(self, event: ModelEvent, reason: str) -> None:
        self.state = advanced(self.state, event)
        self._reason = reason
        log.info("model state", model=str(self.ref), state=str(self.state), reason=reason)
        self._changed()

    def _progressed(self, progress: LoadProgress) -> None:
        # The bytes belong to the reading; later phases have none of their own.
        progress.total_bytes = progress.total_bytes or self._progress.total_bytes
        progress.done_bytes = progress.done_bytes or self._progress.done_bytes
        self._progress = progress
        self._reason = words_for(progress)
        self._changed()

    def _told_progress(self) -> LoadProgress:
        told = LoadProgress()
        told.CopyFrom(self._progress)
        told.model.CopyFrom(ref_to_proto(self.ref))
        told.state = state_to_proto(self.state)
        told.message = self._reason
        if self.state.takes_requests:
            told.remaining_seconds = 0.0
        return told

    def _stream_changed(self, stream: Stream) -> None:
        if stream.closed:
            self._streams.discard(stream)
        self._changed()

    def _changed(self) -> None:
        self._changes.notify()
        self._notify()
