"""The gRPC service of a worker: the agent's service, for one model and for the agent alone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from lite_llm.contracts import ModelRef, ModelState, TierSet
from lite_llm.contracts.errors import Cancelled, InvalidRequest, LiteLLMError, NoAgent
from lite_llm.contracts.tiers import Medium
from lite_llm.engine.compute_thread import ComputeThread
from lite_llm.engine.device import opened
from lite_llm.engine.model import arriving_model
from lite_llm.engine.served import Served, ServingSettings
from lite_llm.proto.v1 import agent_pb2, generate_pb2
from lite_llm.proto.v1.agent_pb2_grpc import AgentServicer
from lite_llm.telemetry import render
from lite_llm.tiers import LoadProgress
from lite_llm.wire import (
    Multiplexed,
    at_end_of,
    cancel_when_asked,
    ref_from_proto,
    ref_to_proto,
    start_of,
)
from lite_llm.wire.values import medium_to_proto, state_to_proto, tier_set_from_proto

if TYPE_CHECKING:
    from lite_llm.proto.v1.agent_pb2_grpc import _ServicerContext

log = structlog.get_logger(__name__)


class WorkerService(AgentServicer):
    """Loads one model, then answers requests for it, many at a time; ``async with``."""

    def __init__(self, compute: ComputeThread, settings: ServingSettings) -> None:
        self._compute = compute
        self._settings = settings
        self._closing = contextlib.AsyncExitStack()
        self._ref: ModelRef | None = None
        self._served: Served | None = None
        self._many = Multiplexed(self.Generate)

    async def Load(
        self, request: agent_pb2.LoadRequest, context: _ServicerContext
    ) -> AsyncIterator[generate_pb2.LoadProgress]:
        """Once in a worker's life, from a directory on this machine."""
        if self._ref is not None:
            raise InvalidRequest(f"this worker holds {self._ref}", where="model")
        self._ref = ref = ref_from_proto(request.spec.ref)
        try:
            tier_set = (
                tier_set_from_proto(request.tier_set) if request.HasField("tier_set") else None
            )
            loading = self._loading(Path(request.spec.source.uri), str(ref), tier_set)
            async with contextlib.aclosing(loading) as steps:
                async for progress in steps:
                    progress.model.CopyFrom(ref_to_proto(ref))
                    yield progress
        finally:
            if self._served is None:
                self._ref = None

    async def Generate(
        self,
        request_iterator: AsyncIterator[generate_pb2.GenerateRequest],
        context: _ServicerContext,
    ) -> AsyncIterator[generate_pb2.GenerateEvent]:
        """One answer. The client's cancel ends it with an event, its disappearance without."""
        start = await start_of(request_iterator)  # first: who is refused amid writing hears less
        served = self._loaded()
        request = await served.request(start)
        answer = served.answer(start, request)
        answering = served.engine.submit(request)
        at_end_of(context, answering.cancel)
        listening = asyncio.create_task(cancel_when_asked(request_iterator, answering.cancel))
        error: BaseException | None = None
        try:
            async for step in answering:
                if event := answer.event(step):
                    yield event
            if answering.is_cancelled:
                yield answer.cancelled()
        except BaseException as raised:
            error = raised
            raise
        finally:
            answer.over(error)
            answering.cancel()
            listening.cancel()

    async def GenerateMany(
        self,
        request_iterator: AsyncIterator[generate_pb2.StreamRequests],
        context: _ServicerContext,
    ) -> AsyncIterator[generate_pb2.StreamEvents]:
        """Each generation as by :meth:`Generate`; what a step says to all of them is a message."""
        async for batch in self._many.serve(request_iterator):
            yield batch

    async def Status(
        self, request: agent_pb2.AgentStatusRequest, context: _ServicerContext
    ) -> agent_pb2.AgentReport:
        """Of the one model; the node is the agent's business."""
        served = self._served
        residency = agent_pb2.Residency(
            model=ref_to_proto(self._ref) if self._ref else None,
            state=state_to_proto(ModelState.ACTIVE if served else ModelState.INIT),
            running_requests=served.engine.running if served else 0,
            waiting_requests=served.engine.waiting if served else 0,
            kv_hit_rate=served.measures.hit_rate if served else 0.0,
            context_tokens=served.room if served else 0,
        )
        pulse = agent_pb2.Pulse()
        if served:
            pulse = agent_pb2.Pulse(steps=served.engine.steps, stepping=served.engine.stepping)
        return agent_pb2.AgentReport(residencies=[residency], pulse=pulse)

    async def Metrics(
        self, request: agent_pb2.MetricsRequest, context: _ServicerContext
    ) -> agent_pb2.MetricsReport:
        """Of the one model; the agent tells them with its own."""
        if self._served is None:
            return agent_pb2.MetricsReport()
        text, _ = render(self._served.metrics.registry)
        return agent_pb2.MetricsReport(text=text.decode())

    async def Experts(
        self, request: agent_pb2.ExpertMapRequest, context: _ServicerContext
    ) -> agent_pb2.ExpertMap:
        """Where each expert lies now; the node is the agent's business."""
        served = self._loaded()
        layers: dict[int, agent_pb2.ExpertMapLayer] = {}
        for number, tier, media in served.expert_media():
            layer = layers.setdefault(number, agent_pb2.ExpertMapLayer(layer=number))
            layer.tiers.add(
                tier=tier, media=bytes(medium_to_proto(Medium(medium)) for medium in media)
            )
        model = ref_to_proto(self._ref) if self._ref else None
        return agent_pb2.ExpertMap(model=model, layers=[layers[n] for n in sorted(layers)])

    def _loaded(self) -> Served:
        if self._served is None:
            raise NoAgent("the model is not loaded yet", where=str(self._ref), retry_after=1.0)
        return self._served

    async def _loading(
        self, directory: Path, name: str, tier_set: TierSet | None
    ) -> AsyncGenerator[generate_pb2.LoadProgress]:
        began = time.monotonic()
        async with contextlib.AsyncExitStack() as held:
            settings = self._settings
            device = opened(settings.device)
            arriving = arriving_model(
                directory,
                settings.experts,
                notes=settings.notes,
                device=device,
                tier_set=tier_set,
            )
            model, load = await held.enter_async_context(arriving)
            served = Served(model, self._settings, self._compute, name, tier_set)
            await held.enter_async_context(served)
            # While weights arrive: the first layer computes before the last one is here.
            warming = asyncio.create_task(served.warm_up())
            held.push_async_callback(_ended, warming)
            # Before that, at the end: a step that waits for a layer must not wait for ever.
            held.callback(model.decoder.weights.fail, Cancelled("the load was given up"))
            held.callback(warming.cancel)
            async for progress in load.progress():
                yield _reading(progress, time.monotonic() - began)
            await load.done()
            log.info("weights read", model=name, seconds=time.monotonic() - began)
            began = time.monotonic()
            yield _initialising(ModelState.WARM, 0.0)
            await warming
            self._served = served
            self._closing.push_async_exit(held.pop_all())
        yield _initialising(ModelState.ACTIVE, time.monotonic() - began)

    async def __aenter__(self) -> WorkerService:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()


async def _ended(warming: asyncio.Task[None]) -> None:
    """What stopped the load stopped it too, and is told once."""
    with contextlib.suppress(asyncio.CancelledError, LiteLLMError):
        await warming


def _reading(progress: LoadProgress, seconds: float) -> generate_pb2.LoadProgress:
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
