"""The gRPC service of a worker: the agent's service, for one model and for the agent alone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from lite_llm.contracts import ModelRef, ModelState
from lite_llm.contracts.errors import InvalidRequest, NoAgent
from lite_llm.engine.answer import Answer
from lite_llm.engine.compute_thread import ComputeThread, Job
from lite_llm.engine.generation import Step, generate
from lite_llm.engine.model import Model, load_model
from lite_llm.engine.requests import request_from_proto
from lite_llm.models import Progress
from lite_llm.proto.v1 import agent_pb2, generate_pb2
from lite_llm.proto.v1.agent_pb2_grpc import AgentServicer
from lite_llm.wire import ref_from_proto, ref_to_proto
from lite_llm.wire.values import state_to_proto

if TYPE_CHECKING:
    from lite_llm.proto.v1.agent_pb2_grpc import _ServicerContext

log = structlog.get_logger(__name__)


class WorkerService(AgentServicer):
    """Loads one model, then answers requests for it one after another, in order of arrival."""

    def __init__(self, compute: ComputeThread) -> None:
        self._compute = compute
        self._ref: ModelRef | None = None
        self._model: Model | None = None

    async def Load(
        self, request: agent_pb2.LoadRequest, context: _ServicerContext
    ) -> AsyncIterator[generate_pb2.LoadProgress]:
        """Once in a worker's life, from a directory on this machine."""
        if self._ref is not None:
            raise InvalidRequest(f"this worker holds {self._ref}", where="model")
        self._ref = ref = ref_from_proto(request.spec.ref)
        job = self._compute.submit(self._loading(Path(request.spec.source.uri)))
        _cancel_at_end(job, context)
        try:
            async for progress in job:
                progress.model.CopyFrom(ref_to_proto(ref))
                yield progress
        finally:
            if self._model is None:
                self._ref = None

    async def Generate(
        self,
        request_iterator: AsyncIterator[generate_pb2.GenerateRequest],
        context: _ServicerContext,
    ) -> AsyncIterator[generate_pb2.GenerateEvent]:
        """One answer. The client's cancel ends it with an event, its disappearance without."""
        model = self._loaded()
        start = await _start_of(request_iterator)
        # In a thread: a long prompt takes the tokenizer a while.
        request = await asyncio.to_thread(request_from_proto, start, model)
        answer = Answer(start, num_prompt_tokens=len(request.prompt))
        job = self._compute.submit(generate(model, request))
        _cancel_at_end(job, context)
        listening = asyncio.create_task(_cancel_when_asked(request_iterator, job))
        try:
            async for step in job:
                if event := answer.event(step):
                    yield event
            if job.cancelled:
                yield answer.cancelled()
        finally:
            job.cancel()
            listening.cancel()

    async def Status(
        self, request: agent_pb2.AgentStatusRequest, context: _ServicerContext
    ) -> agent_pb2.AgentReport:
        """Of the one model; the node is the agent's business."""
        residency = agent_pb2.Residency(
            model=ref_to_proto(self._ref) if self._ref else None,
            state=state_to_proto(ModelState.ACTIVE if self._model else ModelState.INIT),
            running_requests=self._compute.running,
            waiting_requests=self._compute.waiting,
            context_tokens=self._model.context_tokens if self._model else 0,
        )
        return agent_pb2.AgentReport(residencies=[residency])

    def _loaded(self) -> Model:
        if self._model is None:
            raise NoAgent("the model is not loaded yet", where=str(self._ref), retry_after=1.0)
        return self._model

    def _loading(self, directory: Path) -> Iterator[generate_pb2.LoadProgress]:
        clock, began = time.monotonic, time.monotonic()
        for step in load_model(directory):
            seconds = clock() - began
            if isinstance(step, Progress):
                yield _reading(step, seconds)
                continue
            log.info("weights read", model=str(self._ref), seconds=seconds)
            began = clock()
            yield _initialising(ModelState.WARM, 0.0)
            step.warm_up()
            self._model = step
            yield _initialising(ModelState.ACTIVE, clock() - began)


def _cancel_at_end(job: Job[Any], context: _ServicerContext) -> None:
    """Also when the client disappears while a message to it is on its way."""

    def done(_: object) -> None:
        job.cancel()

    context.add_done_callback(done)  # type: ignore[arg-type]  # the stub's class is no protocol


async def _start_of(
    requests: AsyncIterator[generate_pb2.GenerateRequest],
) -> generate_pb2.GenerateStart:
    async for request in requests:
        if request.WhichOneof("action") == "start":
            return request.start
        break
    raise InvalidRequest("a generation begins with a start", where="action", remedy="send it first")


async def _cancel_when_asked(
    requests: AsyncIterator[generate_pb2.GenerateRequest], job: Job[Step]
) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        async for request in requests:
            if request.WhichOneof("action") == "cancel":
                log.info("generation cancelled", reason=request.cancel.reason)
                job.cancel()
                return


def _reading(progress: Progress, seconds: float) -> generate_pb2.LoadProgress:
    left = progress.total_bytes - progress.done_bytes
    return generate_pb2.LoadProgress(
        phase=generate_pb2.LOAD_PHASE_READ,
        state=state_to_proto(ModelState.INIT),
        done_bytes=progress.done_bytes,
        total_bytes=progress.total_bytes,
        phase_seconds=seconds,
        remaining_seconds=seconds * left / progress.done_bytes if progress.done_bytes else -1.0,
    )


def _initialising(state: ModelState, seconds: float) -> generate_pb2.LoadProgress:
    return generate_pb2.LoadProgress(
        phase=generate_pb2.LOAD_PHASE_INIT, state=state_to_proto(state), phase_seconds=seconds
    )
