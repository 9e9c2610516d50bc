"""The agent's gRPC service: what an orchestrator asks of a node."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from lite_llm.agent.checkpoints import Checkpoints
from lite_llm.agent.declared import Declared
from lite_llm.agent.exposition import Exposition
from lite_llm.agent.generating import generated
from lite_llm.agent.hosted import Goal, HostedModel
from lite_llm.agent.models import Models
from lite_llm.agent.reports import Reporter
from lite_llm.contracts import ModelState
from lite_llm.contracts.errors import InvalidRequest, NoAgent, Unsupported
from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2
from lite_llm.proto.v1.agent_pb2_grpc import AgentServicer
from lite_llm.telemetry import traces
from lite_llm.wire import Endpoint, Multiplexed, at_end_of, ref_from_proto
from lite_llm.wire.values import medium_from_proto

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from lite_llm.proto.v1.agent_pb2_grpc import _ServicerContext

PIECE_BYTES = 1 << 20
"""Of a file, in a message to a peer."""
MOST_BYTES = 64 << 20  # of a file, in one call
ASK_SECONDS = 5.0  # for what a worker knows without computing


class AgentService(AgentServicer):
    """Every method of the protocol."""

    def __init__(
        self,
        models: Models,
        checkpoints: Checkpoints,
        declared: Declared,
        reporter: Reporter,
        exposition: Exposition,
    ) -> None:
        self._models = models
        self._checkpoints = checkpoints
        self._declared = declared
        self._reporter = reporter
        self._exposition = exposition
        self._many = Multiplexed(self.Generate)
        self._endpoint: Endpoint | None = None
        self._stopping = False

    async def open(self, endpoint: Endpoint) -> None:
        """Say on ``endpoint``, where this is served, that it serves."""
        self._endpoint = endpoint
        await endpoint.set_serving(True)

    async def close(self, grace_seconds: float) -> None:
        """Finish what runs within the grace, stop the workers, end everybody's watch."""
        await self._drain(grace_seconds)
        await self._models.close()
        self._many.close()
        self._stopping = True
        self._models.changes.notify()

    async def Load(
        self, request: agent_pb2.LoadRequest, context: _ServicerContext
    ) -> AsyncIterator[generate_pb2.LoadProgress]:
        """The load goes on when the caller leaves."""
        goal = _goal_of(request.target)
        self._checkpoints.signed.learn(request)
        model = self._models.load(request.spec, goal)
        model.start_within(_trace_of(context))
        async for progress in model.follow(lambda: _is_at(model, goal)):
            yield progress

    async def Sleep(
        self, request: agent_pb2.SleepRequest, context: _ServicerContext
    ) -> AsyncIterator[generate_pb2.LoadProgress]:
        """What runs ends first. A request that comes later wakes the model."""
        model = self._models.sleep(ref_from_proto(request.model))
        async for progress in model.follow(
            lambda: model.goal is Goal.DEVICE or not model.state.runs_requests
        ):
            yield progress

    async def Wake(
        self, request: agent_pb2.WakeRequest, context: _ServicerContext
    ) -> AsyncIterator[generate_pb2.LoadProgress]:
        """As a load of what the agent knows already."""
        model = self._models.wake(ref_from_proto(request.model))
        model.start_within(_trace_of(context))
        async for progress in model.follow(lambda: _is_at(model, Goal.DEVICE)):
            yield progress

    async def Prefetch(
        self, request: agent_pb2.PrefetchRequest, context: _ServicerContext
    ) -> AsyncIterator[generate_pb2.LoadProgress]:
        """Of a declared model. All tiers come: weights lie in memory as their files do on disk."""
        goal = _goal_of(request.target)
        spec = await self._declared.model(ref_from_proto(request.model))
        model = self._models.load(spec, goal)
        model.start_within(_trace_of(context))
        async for progress in model.follow(lambda: _is_at(model, goal)):
            yield progress

    async def Unload(
        self, request: agent_pb2.UnloadRequest, context: _ServicerContext
    ) -> agent_pb2.UnloadResponse:
        """Returns when the worker is gone."""
        await self._models.unload(ref_from_proto(request.model), request.grace_seconds)
        return agent_pb2.UnloadResponse()

    async def Generate(
        self,
        request_iterator: AsyncIterator[generate_pb2.GenerateRequest],
        context: _ServicerContext,
    ) -> AsyncIterator[generate_pb2.GenerateEvent]:
        """Through the model's worker. A client that reads slowly slows down its own stream only."""
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("action") != "start":
            raise InvalidRequest(
                "a generation begins with a start", where="action", remedy="send it first"
            )
        batches = generated(
            self._models,
            self._reporter.node_name,
            first,
            request_iterator,
            closes_with=lambda close: at_end_of(context, close),
            trace=_trace_of(context),
        )
        async with contextlib.aclosing(batches):
            async for events in batches:
                for event in events:
                    yield event

    async def GenerateMany(
        self,
        request_iterator: AsyncIterator[generate_pb2.StreamRequests],
        context: _ServicerContext,
    ) -> AsyncIterator[generate_pb2.StreamEvents]:
        """Each generation as by :meth:`Generate`, under one trace."""
        async for batch in self._many.serve(request_iterator):
            yield batch

    async def Embed(
        self, request: generate_pb2.EmbedRequest, context: _ServicerContext
    ) -> generate_pb2.EmbedResponse:
        """Of the model's worker; a model that sleeps is woken, as by a generation."""
        model = self._models.get(ref_from_proto(request.model))
        if self._models.draining:
            raise NoAgent("the agent is draining", remedy="choose another agent")
        await model.wait_ready()
        return await model.ask(lambda worker: worker.Embed(request))

    async def Experts(
        self, request: agent_pb2.ExpertMapRequest, context: _ServicerContext
    ) -> agent_pb2.ExpertMap:
        """Of the model's worker; without layers while it has none."""
        model = self._models.get(ref_from_proto(request.model))
        told = agent_pb2.ExpertMap()
        if model.worker is not None:
            with contextlib.suppress(Unsupported):  # a foreign server has no tiers
                told = await model.ask(lambda worker: worker.Experts(request, timeout=ASK_SECONDS))
        told.model.CopyFrom(request.model)
        told.node = self._reporter.node_name
        return told

    async def Status(
        self, request: agent_pb2.AgentStatusRequest, context: _ServicerContext
    ) -> agent_pb2.AgentReport:
        """The same that is written to the metadata store."""
        return self._reporter.report()

    async def Watch(
        self, request: agent_pb2.AgentStatusRequest, context: _ServicerContext
    ) -> AsyncIterator[agent_pb2.AgentReport]:
        """A slow reader misses reports in between, never the last one."""
        while not self._stopping:
            seen = self._models.changes.version
            yield self._reporter.report()
            await self._models.changes.beyond(seen)

    async def Drain(
        self, request: agent_pb2.DrainRequest, context: _ServicerContext
    ) -> agent_pb2.DrainResponse:
        """For good: a drained agent serves again after a restart."""
        return agent_pb2.DrainResponse(handed_over=await self._drain(request.grace_seconds))

    async def FetchChunks(
        self, request: agent_pb2.FetchChunksRequest, context: _ServicerContext
    ) -> AsyncIterator[agent_pb2.FileChunk]:
        """Bytes of a checkpoint that this agent has or gets; what is to come is waited for."""
        end = request.offset + min(request.length, MOST_BYTES)
        for offset in range(request.offset, end, PIECE_BYTES):
            size = min(PIECE_BYTES, end - offset)
            data = await self._checkpoints.read(
                request.checkpoint_digest, request.file, offset, size
            )
            yield agent_pb2.FileChunk(offset=offset, data=data)
            if len(data) < size:
                return

    async def Metrics(
        self, request: agent_pb2.MetricsRequest, context: _ServicerContext
    ) -> agent_pb2.MetricsReport:
        """Of the agent and its workers, as on its HTTP port."""
        return agent_pb2.MetricsReport(text=await self._exposition.text())

    async def _drain(self, grace_seconds: float) -> int:
        if self._endpoint is not None:
            await self._endpoint.set_serving(False)
        return await self._models.drain(grace_seconds)


def _trace_of(context: _ServicerContext) -> Context | None:
    metadata = getattr(context, "invocation_metadata", tuple)  # one of many on a call has none
    return traces.extract(metadata() or ())


def _goal_of(target: int) -> Goal:
    if target == model_pb2.MEDIUM_UNSPECIFIED:
        return Goal.DEVICE
    return Goal.of(medium_from_proto(target))


def _is_at(model: HostedModel, goal: Goal) -> bool:
    if goal is Goal.DEVICE:
        return model.state.takes_requests
    return model.medium <= goal.medium and (goal is Goal.DISK or model.state is not ModelState.INIT)
