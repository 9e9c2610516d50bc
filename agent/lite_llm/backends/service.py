"""The gRPC service of a worker with a foreign server: the same calls as the native worker's."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING

import structlog

from lite_llm.backends.answer import Answer
from lite_llm.backends.foreign_model import ForeignModel, ServerSettings, foreign_model
from lite_llm.backends.registry import foreign_backend
from lite_llm.contracts import ModelRef, ModelState
from lite_llm.contracts.errors import InvalidRequest, NoAgent, WorkerCrashed
from lite_llm.proto.v1 import agent_pb2, generate_pb2
from lite_llm.proto.v1.agent_pb2_grpc import AgentServicer
from lite_llm.proto.v1.model_pb2 import ModelSpec
from lite_llm.wire import (
    Multiplexed,
    cancel_when_asked,
    ref_from_proto,
    ref_to_proto,
    start_of,
)
from lite_llm.wire.values import state_to_proto

if TYPE_CHECKING:
    from lite_llm.proto.v1.agent_pb2_grpc import _ServicerContext

log = structlog.get_logger(__name__)


class ForeignService(AgentServicer):
    """Starts one server for one model, then passes requests on to it; ``async with``."""

    def __init__(self, settings: ServerSettings) -> None:
        self.crash: asyncio.Future[WorkerCrashed] = asyncio.get_running_loop().create_future()
        """How the server ended that had been ready; then this worker is of no use any more."""
        self._settings = settings
        self._closing = contextlib.AsyncExitStack()
        self._ref: ModelRef | None = None
        self._model: ForeignModel | None = None
        self._many = Multiplexed(self.Generate)

    async def Load(
        self, request: agent_pb2.LoadRequest, context: _ServicerContext
    ) -> AsyncIterator[generate_pb2.LoadProgress]:
        """Once in a worker's life, from a path on this machine."""
        if self._ref is not None:
            raise InvalidRequest(f"this worker holds {self._ref}", where="model")
        if request.HasField("tier_set"):
            raise InvalidRequest("a foreign server has no tiers", where="tier_set")
        self._ref = ref = ref_from_proto(request.spec.ref)
        try:
            async with contextlib.aclosing(self._loading(request.spec, str(ref))) as steps:
                async for progress in steps:
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
        start = await start_of(request_iterator)
        generation = await model.generation(start)
        answer = Answer(start, model.measures)
        listening = asyncio.create_task(cancel_when_asked(request_iterator, generation.cancel))
        model.measures.began()
        error: BaseException | None = None
        try:
            async with contextlib.aclosing(generation.pieces()) as pieces:
                async for index, piece in pieces:
                    if piece is None:
                        yield answer.finished(index)
                        continue
                    for event in answer.events(index, piece):
                        yield event
            if generation.is_cancelled:
                yield answer.cancelled()
        except BaseException as raised:
            error = raised
            raise
        finally:
            answer.over(error)
            listening.cancel()

    async def GenerateMany(
        self,
        request_iterator: AsyncIterator[generate_pb2.StreamRequests],
        context: _ServicerContext,
    ) -> AsyncIterator[generate_pb2.StreamEvents]:
        """Each generation as by :meth:`Generate`."""
        async for batch in self._many.serve(request_iterator):
            yield batch

    async def Status(
        self, request: agent_pb2.AgentStatusRequest, context: _ServicerContext
    ) -> agent_pb2.AgentReport:
        """Of the one model; the node is the agent's business."""
        model = self._model
        residency = agent_pb2.Residency(
            model=ref_to_proto(self._ref) if self._ref else None,
            state=state_to_proto(ModelState.ACTIVE if model else ModelState.INIT),
            running_requests=model.measures.running if model else 0,
            context_tokens=model.context_tokens if model else 0,
        )
        # A step is an answered question; a server that hangs leaves the last one open.
        pulse = agent_pb2.Pulse(
            steps=model.probes_answered if model else 0,
            stepping=model.is_probing if model else False,
        )
        return agent_pb2.AgentReport(residencies=[residency], pulse=pulse)

    async def Metrics(
        self, request: agent_pb2.MetricsRequest, context: _ServicerContext
    ) -> agent_pb2.MetricsReport:
        """The server's own and what is seen of it, under vLLM's names."""
        return agent_pb2.MetricsReport(text=await self._loaded().metrics())

    def _loaded(self) -> ForeignModel:
        if self._model is None:
            raise NoAgent("the model is not loaded yet", where=str(self._ref), retry_after=1.0)
        return self._model

    async def _loading(
        self, spec: ModelSpec, name: str
    ) -> AsyncGenerator[generate_pb2.LoadProgress]:
        began = time.monotonic()
        async with contextlib.AsyncExitStack() as held:
            model, size = await held.enter_async_context(
                foreign_model(foreign_backend(spec.backend), spec, name, self._settings)
            )
            yield _reading(0, size, 0.0)
            waiting = model.wait_ready(self._settings.start_seconds)
            async with contextlib.aclosing(waiting) as elapsed:
                async for seconds in elapsed:
                    yield _reading(0, size, seconds)
            seconds = time.monotonic() - began
            log.info("server ready", model=name, seconds=seconds)
            yield _reading(size, size, seconds)
            yield _initialising(ModelState.WARM)
            watching = asyncio.create_task(self._watch(model))
            held.push_async_callback(asyncio.wait, [watching])
            held.callback(watching.cancel)
            self._model = model
            self._closing.push_async_exit(held.pop_all())
        yield _initialising(ModelState.ACTIVE)

    async def _watch(self, model: ForeignModel) -> None:
        self.crash.set_result(await model.watch())

    async def __aenter__(self) -> ForeignService:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()


def _reading(done: int, total: int, seconds: float) -> generate_pb2.LoadProgress:
    return generate_pb2.LoadProgress(
        phase=generate_pb2.LOAD_PHASE_READ,
        state=state_to_proto(ModelState.INIT),
        done_bytes=done,
        total_bytes=total,
        phase_seconds=seconds,
        remaining_seconds=-1.0,  # a foreign server does not tell how far it is
    )


def _initialising(state: ModelState) -> generate_pb2.LoadProgress:
    return generate_pb2.LoadProgress(
        phase=generate_pb2.LOAD_PHASE_INIT, state=state_to_proto(state)
    )
