"""One model on this agent: where it is wanted, its state, and the requests that run there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import IntEnum
from typing import TYPE_CHECKING, TypeVar

import grpc.aio
import structlog

from lite_llm.agent.changes import Changes
from lite_llm.agent.checkpoints import LocalCheckpoint, source_words
from lite_llm.agent.residency import Holding, words_for
from lite_llm.agent.restarts import RestartPolicy, Restarts
from lite_llm.agent.room import Occupant
from lite_llm.agent.streams import Stream
from lite_llm.agent.timeline import Timeline
from lite_llm.agent.workers import Worker
from lite_llm.contracts import (
    LiteLLMError,
    Medium,
    ModelEvent,
    ModelRef,
    ModelState,
    outcome_of,
)
from lite_llm.contracts.errors import AgentLost, Cancelled, NoAgent, Overloaded
from lite_llm.contracts.states import advanced
from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2
from lite_llm.proto.v1.generate_pb2 import LoadProgress
from lite_llm.telemetry.metrics import Metrics
from lite_llm.wire import ref_to_proto
from lite_llm.wire.values import state_to_proto

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from lite_llm.proto.v1.agent_pb2_grpc import AgentAsyncStub

T = TypeVar("T")
MOST_HELD = 1024  # requests that wait for one model to wake

log = structlog.get_logger(__name__)


class Goal(IntEnum):
    """How near a model is wanted."""

    NOWHERE = 0
    DISK = 1
    MEMORY = 2
    DEVICE = 3

    @property
    def medium(self) -> Medium:
        """What the wire calls it."""
        return {Goal.DISK: Medium.NVME, Goal.MEMORY: Medium.DRAM}.get(self, Medium.GPU)

    @classmethod
    def of(cls, medium: Medium) -> Goal:
        """What is no nearer than a disk is brought to the disk."""
        return {Medium.GPU: cls.DEVICE, Medium.DRAM: cls.MEMORY}.get(medium, cls.DISK)


class HostedModel:
    """From its first load to its unload. Something else brings it to its goal (``upkeep``)."""

    def __init__(
        self,
        ref: ModelRef,
        notify: Callable[[], None],
        *,
        settle_seconds: float = 0.0,
        restarts: RestartPolicy | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """``notify`` is called after every change, whatever changed."""
        self.ref = ref
        self.state = ModelState.INIT
        self.spec = model_pb2.ModelSpec()
        self.goal = Goal.NOWHERE
        self.leaving = False
        """It is being unloaded; whoever wants it back has to wait for that."""
        self.yielding = False
        """It was asked to give its memory to another."""
        self.checkpoint: LocalCheckpoint | None = None
        """While it is held on this machine's disk."""
        self.medium = Medium.OBJECT_STORE
        """The nearest that has all of it."""
        self.restarts = Restarts(restarts or RestartPolicy())
        self.worker: Worker | None = None
        """While it has the weights."""
        self._timeline = Timeline(metrics, str(ref))
        self._settle_seconds = settle_seconds
        self._reason = "declared"
        self._error: LiteLLMError | None = None
        self._failure = ""
        self._progress = LoadProgress()
        self._digest = ""
        self._streams: set[Stream] = set()
        self._num_held = 0
        self._is_fresh = False
        self._last_use = time.monotonic()
        self._told = agent_pb2.Residency()
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
            medium=self.medium,
            weight_bytes=self._progress.total_bytes,
            running=running,
            waiting=len(self._streams) - running + self._num_held,
            generation=self.spec.generation,
            context_tokens=self._told.context_tokens,
            kv_hit_rate=self._told.kv_hit_rate,
            digest=self._digest,
            cold_start=self._timeline.last,
            started_at=self._timeline.ended_at,
            failure=self._failure,
        )

    def occupant(self, num_bytes: int) -> Occupant:
        """As the node's memory sees it."""
        is_busy = self._streams or self._num_held or self._is_fresh
        return Occupant(
            ref=self.ref,
            num_bytes=num_bytes,
            last_use=self._last_use,
            is_idle=self.state is ModelState.ACTIVE and not is_busy,
            is_pinned=bool(self.spec.pinned_tiers),
            is_leaving=self.yielding or self.goal < Goal.DEVICE,
        )

    def begin(self, spec: model_pb2.ModelSpec) -> None:
        """A load of ``spec`` is decided on; earlier faults are forgotten."""
        self.spec, self._error, self._progress = spec, None, LoadProgress()
        self._failure = ""
        self.progressed(LoadProgress(phase=generate_pb2.LOAD_PHASE_QUEUE, remaining_seconds=-1.0))

    def start_within(self, trace: Context | None) -> None:
        """The start that is under way, or else the next one, belongs to ``trace``."""
        if trace is not None:
            self._timeline.parent = trace

    def want(self, goal: Goal) -> None:
        """It is wanted there from now on."""
        if goal is not self.goal:
            if goal is Goal.DEVICE and not self.state.runs_requests:
                self._timeline.begin(self.medium)
            self.goal = goal
            self._changed()

    def give_way(self, reason: str) -> None:
        """Finish what runs and give the memory back; wanted again at once if requests wait."""
        self.yielding = True
        self.freeze(reason)
        self._changed()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Looked at after every change."""
        while not condition():
            await self._changes.beyond(self._changes.version)

    async def follow(self, is_there: Callable[[], bool]) -> AsyncIterator[LoadProgress]:
        """Progress until it is there; raises what that failed with.

        A slow reader misses steps in between, never the last one.
        """
        while True:
            version, is_over = self._changes.version, is_there()
            yield self._told_progress()
            if is_over:
                return
            if self._error is not None:
                raise self._error
            await self._changes.beyond(version)

    async def wait_ready(self) -> None:
        """Until it takes requests; a sleeping model is woken, a busy node waited for.

        :class:`NoAgent` where that can't be foretold: it crashed, or it leaves.
        """
        if self.state.takes_requests:
            return
        if self._num_held >= MOST_HELD:
            raise Overloaded(
                f"{self._num_held} requests wait for {self.ref}",
                where=str(self.ref),
                remedy="try again later, or elsewhere",
                retry_after=1.0,
            )
        self._num_held += 1
        try:
            while not self.state.takes_requests:
                if self.leaving or self._error or self.state is ModelState.RECOVERING:
                    raise self._refusal()
                self.want(Goal.DEVICE)
                await self._changes.beyond(self._changes.version)
        finally:
            self._num_held -= 1
            self._changed()

    def open_stream(
        self,
        first: generate_pb2.GenerateRequest,
        others: AsyncIterator[generate_pb2.GenerateRequest],
    ) -> Stream:
        """Send a request to the worker; :class:`NoAgent` unless the model takes requests."""
        if self.worker is None or not self.state.takes_requests:
            raise self._refusal()
        stream = Stream(self.worker, first, others, self._stream_changed)
        self._streams.add(stream)
        self._is_fresh = False
        self._changed()
        return stream

    async def ask(self, call: Callable[[AgentAsyncStub], Awaitable[T]]) -> T:
        """Its worker; raises what that says, and :class:`NoAgent` while there is none."""
        if self.worker is None:
            raise self._refusal()
        self._last_use, worker = time.monotonic(), self.worker
        try:
            return await call(worker.stub)
        except grpc.aio.AioRpcError as failure:
            raise await worker.error_from(failure) from failure

    def freeze(self, reason: str) -> None:
        """Take nothing new; what runs goes on."""
        if self.state is ModelState.ACTIVE:
            self.step(ModelEvent.FREEZE, reason)

    @property
    def has_streams(self) -> bool:
        """Whether requests run or wait in the worker."""
        return bool(self._streams)

    def take_unread_away(self, patience_seconds: float) -> None:
        """End streams whose clients have not read for so long: others want what they hold."""
        now = time.monotonic()
        for stream in list(self._streams):
            if (seconds := stream.unread_seconds(now)) > patience_seconds:
                stream.take_away(
                    AgentLost(
                        f"nobody read the answer for {seconds:.0f} s, and {self.ref} has to leave",
                        where=str(self.ref),
                        remedy="read faster, or resume the stream",
                    )
                )

    @property
    def is_asked_for(self) -> bool:
        """Whether requests wait for it to take them."""
        return bool(self._num_held)

    async def finish_streams(self, grace_seconds: float) -> int:
        """Let what runs come to its end, then take away the rest; returns how many that were."""
        try:
            async with asyncio.timeout(grace_seconds):
                await self.wait_until(lambda: not self._streams)
        except TimeoutError:
            pass
        return self.take_streams_away(
            AgentLost(
                f"{self.ref} leaves this agent: {self._reason}",
                where=str(self.ref),
                remedy="resume the stream on another agent",
            )
        )

    def take_streams_away(self, error: LiteLLMError) -> int:
        """End them; their clients are told ``error``. Returns how many they were."""
        left = list(self._streams)
        for stream in left:
            stream.take_away(error)
        return len(left)

    def abandon(self) -> None:
        """Tell those who follow a load, if there is one, that it was given up."""
        self._timeline.end("cancelled")
        self._error = Cancelled(f"the load of {self.ref} was given up", where=str(self.ref))
        self._changed()

    def activated(self, report: agent_pb2.AgentReport) -> None:
        """It takes requests from now on."""
        self.heard(report)
        self._timeline.end("ok")
        self._is_fresh = True
        self._last_use = time.monotonic()
        asyncio.get_running_loop().call_later(self._settle_seconds, self._settled)
        self.step(ModelEvent.ACTIVATED, "serving")

    def heard(self, report: agent_pb2.AgentReport) -> None:
        """What its worker says of itself."""
        if report.residencies:
            self._told = report.residencies[0]

    def failed(self, error: LiteLLMError) -> None:
        """For good, until somebody loads it again."""
        self._timeline.end("failed")
        self._error = error
        self._failure = outcome_of(error).reason
        self.step(ModelEvent.FAILED, str(error))

    def step(self, event: ModelEvent, reason: str) -> None:
        """Raises ``InvalidTransition`` for what SPEC-010 does not allow."""
        self.state = advanced(self.state, event)
        self._reason = reason
        log.info("model state", model=str(self.ref), state=str(self.state), reason=reason)
        self._changed()

    def tell(self, reason: str) -> None:
        """Why it is where it is, in words."""
        if reason != self._reason:
            self._reason = reason
            self._changed()

    def waits(self, reason: str) -> None:
        """For memory, or for a process."""
        self._timeline.enter(generate_pb2.LOAD_PHASE_QUEUE)
        self.tell(reason)

    def fetching(self, progress: LoadProgress, digest: str) -> None:
        """Bytes come from the source to this machine's disk."""
        self._digest = digest
        self.progressed(progress)

    def found(self, checkpoint: LocalCheckpoint | None) -> None:
        """All of it is on this machine's disk; None: it may leave from there."""
        self.checkpoint = checkpoint
        if checkpoint is not None:
            self._digest = checkpoint.digest
            self.medium = Medium.NVME
        self._changed()

    def progressed(self, progress: LoadProgress) -> None:
        """A load is as far as that."""
        self._timeline.enter(progress.phase)
        # The bytes belong to the reading; later phases have none of their own.
        progress.total_bytes = progress.total_bytes or self._progress.total_bytes
        progress.done_bytes = progress.done_bytes or self._progress.done_bytes
        self._progress = progress
        self._reason = words_for(progress, source_words(self.spec.source))
        self._changed()

    def _refusal(self) -> NoAgent:
        return NoAgent(
            f"{self.ref} is {self.state} here: {self._reason}",
            where=str(self.ref),
            remedy="load it, or try another agent",
            retry_after=1.0,
        )

    def _settled(self) -> None:
        self._is_fresh = False
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
        if stream.done:
            self._streams.discard(stream)
            self._last_use = time.monotonic()
        self._changed()

    def _changed(self) -> None:
        self._changes.notify()
        self._notify()
