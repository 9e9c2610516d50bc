"""The gRPC side: the same generation as over HTTP, and the fleet as the orchestrator sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc.aio

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import Cancelled, InvalidRequest
from lite_llm.dispatch import Aliases, Dispatcher, Loads, Orders
from lite_llm.gateway.authentication import caller
from lite_llm.gateway.fleet import difference, is_empty, model_views
from lite_llm.gateway.measures import measured
from lite_llm.gateway.model_list import check_can, is_seen, seen
from lite_llm.openai.schema.sampling import MAX_N
from lite_llm.placement import ClusterView, Observed
from lite_llm.proto.v1.agent_pb2 import DrainResponse, ExpertMap, ExpertMapRequest
from lite_llm.proto.v1.generate_pb2 import (
    FINISH_REASON_CANCELLED,
    GenerateEvent,
    GenerateFinished,
    GenerateRequest,
    GenerateStart,
    LoadProgress,
    RoutingExplanation,
    Usage,
)
from lite_llm.proto.v1.model_pb2 import Alias
from lite_llm.proto.v1.orchestrator_pb2 import (
    DESCRIPTOR,
    DeleteAliasRequest,
    DeleteAliasResponse,
    DrainAgentRequest,
    ListAgentsRequest,
    ListAgentsResponse,
    ListModelsRequest,
    ListModelsResponse,
    LoadModelRequest,
    PinRequest,
    PinResponse,
    RollbackAliasRequest,
    ScoreAgentsRequest,
    SwitchAliasRequest,
    UnloadModelRequest,
    UnloadModelResponse,
    ViewEvent,
    WatchRequest,
)
from lite_llm.proto.v1.orchestrator_pb2_grpc import OrchestratorServicer
from lite_llm.telemetry import Metrics
from lite_llm.tenants import Admission, Keys
from lite_llm.wire import ref_from_proto, ref_to_proto, start_of

SERVICE = DESCRIPTOR.services_by_name["Orchestrator"].full_name

Context = grpc.aio.ServicerContext[Any, Any]


class OrchestratorService(OrchestratorServicer):
    """Every orchestrator serves it."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        loads: Loads,
        orders: Orders,
        aliases: Aliases,
        views: Observed[ClusterView],
        metrics: Metrics,
        keys: Keys,
        admission: Admission,
    ) -> None:
        self._dispatcher = dispatcher
        self._loads = loads
        self._orders = orders
        self._aliases = aliases
        self._views = views
        self._metrics = metrics
        self._keys = keys
        self._admission = admission
        self._stopping = False

    def close(self) -> None:
        """End everybody's watch, which has no end of its own."""
        self._stopping = True
        self._views.set(self._views.value)

    async def Generate(
        self, request_iterator: AsyncIterator[GenerateRequest], context: Context
    ) -> AsyncIterator[GenerateEvent]:
        """One generation; a cancel ends it as finished, ending the call just ends it."""
        tenant = caller(context, self._keys)
        start = await start_of(request_iterator)
        _check_count(start)
        model = seen(self._views.value, ref_from_proto(start.model), tenant)
        check_can(self._views.value, model, (start,))
        start.model.CopyFrom(ref_to_proto(model))
        tenant.stamp(start)
        sequence, usage = start.resume.next_sequence, Usage()
        try:
            async with (
                _until_cancelled(request_iterator),
                self._admission.admitted(tenant, start.sampling.n or 1),
                aclosing(measured(self._dispatcher, start, self._metrics)) as batches,
            ):
                async for event in (event async for batch in batches for event in batch):
                    sequence = event.sequence + 1
                    usage.prompt_tokens += event.started.prompt_tokens
                    usage.completion_tokens += len(event.tokens.token_ids)
                    yield event
        except Cancelled:
            finished = GenerateFinished(reason=FINISH_REASON_CANCELLED, usage=usage)
            yield GenerateEvent(sequence=sequence, finished=finished)

    async def Load(
        self, request: LoadModelRequest, context: Context
    ) -> AsyncIterator[LoadProgress]:
        """Ends when an agent serves the model, or the node that is named; joins a load that is
        under way."""
        caller(context, self._keys).check_admin()
        model = ref_from_proto(request.model)
        steps = (
            self._orders.load(model, request.node, reason="asked for")
            if request.node
            else self._loads.progress(model)
        )
        async with aclosing(steps):
            async for progress in steps:
                yield progress

    async def Unload(self, request: UnloadModelRequest, context: Context) -> UnloadModelResponse:
        """From one node, or from all; returns when it is gone."""
        caller(context, self._keys).check_admin()
        await self._orders.unload(ref_from_proto(request.model), request.node)
        return UnloadModelResponse()

    async def Pin(self, request: PinRequest, context: Context) -> PinResponse:
        """What is pinned is not put to rest when the model has fewer requests."""
        caller(context, self._keys).check_admin()
        model = ref_from_proto(request.model)
        await self._orders.pin(model, request.node, pinned=request.pinned)
        return PinResponse()

    async def Drain(self, request: DrainAgentRequest, context: Context) -> DrainResponse:
        """Streams that are not over within the grace go on at other agents."""
        caller(context, self._keys).check_admin()
        handed_over = await self._orders.drain(request.node, request.grace_seconds)
        return DrainResponse(handed_over=handed_over)

    async def SwitchAlias(
        self, request: SwitchAliasRequest, context: Context
    ) -> AsyncIterator[Alias]:
        """Ends when the other model answers."""
        caller(context, self._keys).check_admin()
        name, target = ref_from_proto(request.ref), ref_from_proto(request.target)
        async with aclosing(self._aliases.switch(name, target)) as steps:
            async for alias in steps:
                yield alias

    async def RollbackAlias(
        self, request: RollbackAliasRequest, context: Context
    ) -> AsyncIterator[Alias]:
        """Ends when the model before answers again."""
        caller(context, self._keys).check_admin()
        async with aclosing(self._aliases.rollback(ref_from_proto(request.ref))) as steps:
            async for alias in steps:
                yield alias

    async def DeleteAlias(
        self, request: DeleteAliasRequest, context: Context
    ) -> DeleteAliasResponse:
        """The name is nobody's any more."""
        caller(context, self._keys).check_admin()
        await self._aliases.delete(ref_from_proto(request.ref))
        return DeleteAliasResponse()

    async def Experts(self, request: ExpertMapRequest, context: Context) -> ExpertMap:
        """Where each expert of a model lies on the node, or on one that serves it."""
        caller(context, self._keys).check_admin()
        return await self._orders.experts(ref_from_proto(request.model), request.node)

    async def ScoreAgents(
        self, request: ScoreAgentsRequest, context: Context
    ) -> RoutingExplanation:
        """Every agent, the best first; with a prompt, as for a request with that prompt."""
        tenant = caller(context, self._keys)
        model = ref_to_proto(seen(self._views.value, ref_from_proto(request.model), tenant))
        start = GenerateStart(model=model, token_ids=request.prompt, tenant=tenant.name)
        return self._dispatcher.explain(start)

    async def ListModels(self, request: ListModelsRequest, context: Context) -> ListModelsResponse:
        """Declared models with what agents hold of them."""
        tenant, view = caller(context, self._keys), self._views.value

        def is_listed(name: ModelRef) -> bool:
            return request.namespace in ("", name.namespace) and is_seen(view, name, tenant)

        return ListModelsResponse(
            models=model_views(view, filter(is_listed, view.models)),
            view_revision=view.revision,
            aliases=[view.aliases[name] for name in sorted(view.aliases) if is_listed(name)],
        )

    async def ListAgents(self, request: ListAgentsRequest, context: Context) -> ListAgentsResponse:
        """Every agent's last status."""
        caller(context, self._keys)
        view = self._views.value
        agents = [agent for _, agent in sorted(view.agents.items())]
        return ListAgentsResponse(agents=agents, view_revision=view.revision)

    async def Watch(self, request: WatchRequest, context: Context) -> AsyncIterator[ViewEvent]:
        """The whole view, then what changes; a slow client gets several changes in one event."""
        caller(context, self._keys).check_admin()
        known = ClusterView()
        async with aclosing(self._views.changes()) as changes:
            async for view in changes:
                if self._stopping:
                    return
                event = difference(known, view)
                if view.is_synced and not (known.is_synced and is_empty(event)):
                    yield event
                known = view


def _check_count(start: GenerateStart) -> None:
    if start.sampling.n > MAX_N:
        raise InvalidRequest(
            f"n is {start.sampling.n}", where="sampling.n", remedy=f"ask for {MAX_N} at most"
        )


@asynccontextmanager
async def _until_cancelled(requests: AsyncIterator[GenerateRequest]) -> AsyncIterator[None]:
    """Interrupts the block with ``Cancelled`` when the client sends a cancel."""

    async def listen(scope: asyncio.Timeout) -> None:
        async for request in requests:
            if request.HasField("cancel"):
                scope.reschedule(asyncio.get_running_loop().time())

    try:
        async with asyncio.timeout(None) as scope:
            listening = asyncio.create_task(listen(scope))
            try:
                yield
            finally:
                listening.cancel()
    except TimeoutError:
        raise Cancelled("the client withdrew the request") from None
