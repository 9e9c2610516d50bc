"""The agent's gRPC service: what an orchestrator asks of a node."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import TYPE_CHECKING

from lite_llm.agent import node
from lite_llm.agent.models import Models
from lite_llm.agent.residency import residency_of
from lite_llm.agent.settings import AgentSettings
from lite_llm.contracts.errors import InvalidRequest, NoAgent, Unsupported
from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2
from lite_llm.proto.v1.agent_pb2_grpc import AgentServicer
from lite_llm.wire import Endpoint, ref_from_proto

if TYPE_CHECKING:
    from lite_llm.proto.v1.agent_pb2_grpc import _ServicerContext

_READY_TO_SERVE = (model_pb2.MEDIUM_UNSPECIFIED, model_pb2.MEDIUM_GPU)


class AgentService(AgentServicer):
    """What the protocol names and this class does not have is answered UNIMPLEMENTED."""

    def __init__(self, settings: AgentSettings, models: Models) -> None:
        self.trouble = ""
        """In words; empty while all is well."""
        self.heartbeat = 0
        self._settings = settings
        self._models = models
        self._incarnation = uuid.uuid4().hex
        self._started_at = int(time.time())
        self._version = version("lite-llm")
        self._endpoint: Endpoint | None = None
        self._stopping = False

    @property
    def grpc_address(self) -> str:
        """``host:port`` that others reach it at; empty until it listens."""
        return self._settings.address(self._endpoint.port) if self._endpoint else ""

    async def open(self, endpoint: Endpoint) -> None:
        """Say on ``endpoint``, where this is served, that it serves."""
        self._endpoint = endpoint
        await endpoint.set_serving(True)

    async def close(self) -> None:
        """Finish what runs within ``stop_seconds``, stop the workers, end everybody's watch."""
        await self._drain(self._settings.stop_seconds)
        await self._models.close()
        self._stopping = True
        self._models.changes.notify()

    def report(self) -> agent_pb2.AgentReport:
        """Everything about the node and its models, as of now."""
        settings, holdings = self._settings, self._models.holdings
        status = agent_pb2.AgentStatus(
            node=settings.node,
            grpc_address=self.grpc_address,
            version=self._version,
            incarnation=self._incarnation,
            started_at=self._started_at,
            devices=node.devices(),
            media=node.media(
                weight_bytes=sum(held.weight_bytes for held in holdings if held.loaded)
            ),
            zone=settings.zone,
            price_class=settings.price_class,
            labels=settings.labels,
            running_requests=sum(held.running for held in holdings),
            waiting_requests=sum(held.waiting for held in holdings),
            draining=self._models.draining,
            health=agent_pb2.Health(healthy=not self.trouble, reason=self.trouble),
            heartbeat=self.heartbeat,
        )
        residencies = [residency_of(held, settings.node) for held in holdings]
        return agent_pb2.AgentReport(status=status, residencies=residencies)

    async def Load(
        self, request: agent_pb2.LoadRequest, context: _ServicerContext
    ) -> AsyncIterator[generate_pb2.LoadProgress]:
        """The load goes on when the caller leaves."""
        if request.target not in _READY_TO_SERVE:
            raise Unsupported(
                "models can only be brought to where they serve",
                where="target",
                remedy="leave it out",
            )
        async for progress in self._models.load(request.spec).follow_load():
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
        if self._models.draining:
            raise NoAgent("the agent is draining", remedy="choose another agent")
        model = self._models.get(ref_from_proto(first.start.model))
        stream = model.open_stream(first, request_iterator)

        def over(_: object) -> None:
            stream.close()

        # Also when the client disappears while a message to it is on its way.
        context.add_done_callback(over)  # type: ignore[arg-type]  # the stub's class is no protocol
        async for event in stream.events():
            if event.HasField("started"):
                event.started.node = self._settings.node
            yield event

    async def Status(
        self, request: agent_pb2.AgentStatusRequest, context: _ServicerContext
    ) -> agent_pb2.AgentReport:
        """The same that is written to the metadata store."""
        return self.report()

    async def Watch(
        self, request: agent_pb2.AgentStatusRequest, context: _ServicerContext
    ) -> AsyncIterator[agent_pb2.AgentReport]:
        """A slow reader misses reports in between, never the last one."""
        while not self._stopping:
            seen = self._models.changes.version
            yield self.report()
            await self._models.changes.beyond(seen)

    async def Drain(
        self, request: agent_pb2.DrainRequest, context: _ServicerContext
    ) -> agent_pb2.DrainResponse:
        """For good: a drained agent serves again after a restart."""
        return agent_pb2.DrainResponse(handed_over=await self._drain(request.grace_seconds))

    async def _drain(self, grace_seconds: float) -> int:
        if self._endpoint is not None:
            await self._endpoint.set_serving(False)
        return await self._models.drain(grace_seconds)
