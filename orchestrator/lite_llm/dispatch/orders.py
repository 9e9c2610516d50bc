"""What agents are told to do beyond requests: load, unload, sleep, drain; and what is pinned."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

import grpc.aio
import structlog

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import AgentNotFound, Conflict, Corrupt, ModelNotFound, Unsupported
from lite_llm.contracts.keyspace import ScalingKey, key_of
from lite_llm.dispatch.agents import Agents, failure_of
from lite_llm.metastore import Absent, AtRevision, Put, Store
from lite_llm.placement import Binder, ClusterView, Observed
from lite_llm.placement.sources import loadable
from lite_llm.proto.v1.agent_pb2 import (
    AgentStatus,
    DrainRequest,
    ExpertMap,
    ExpertMapRequest,
    Residency,
    SleepRequest,
    UnloadRequest,
)
from lite_llm.proto.v1.generate_pb2 import LoadProgress
from lite_llm.proto.v1.model_pb2 import ModelSpec, ModelState
from lite_llm.proto.v1.orchestrator_pb2 import ScalingState
from lite_llm.registry import RegistrySettings, load_request
from lite_llm.wire import closing_call, dumps, loads, ref_to_proto

GRACE_SECONDS = 30.0  # given to running requests of a model that leaves; then they move on
RETRY_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Orders:
    """To the agents in the view."""

    def __init__(
        self,
        store: Store,
        views: Observed[ClusterView],
        agents: Agents,
        binder: Binder,
        registry: RegistrySettings | None = None,
    ) -> None:
        """``registry``: whose stores agents get signed addresses of."""
        self._store = store
        self._views = views
        self._agents = agents
        self._binder = binder
        self._registry = registry

    async def load(
        self, model: ModelRef, node: str, *, reason: str
    ) -> AsyncGenerator[LoadProgress]:
        """Have ``node`` serve the model; :class:`Conflict` while the model is loaded elsewhere."""
        agent, view = self._agent(node), self._views.value
        spec = loadable(self._spec(model), view.ingestions.get(model))
        async with self._binder.claim(
            model, node, reason=reason, generation=spec.generation
        ) as claim:
            if claim is None:
                raise Conflict(
                    f"{model} is being loaded already",
                    where=str(model),
                    remedy="try again when that is over",
                    retry_after=RETRY_SECONDS,
                )
            request = await load_request(spec, self._registry)
            with self._agents.stub(agent) as stub, closing_call(stub.Load(request)) as call:
                try:
                    async for progress in call:
                        yield progress
                except grpc.aio.AioRpcError as error:
                    raise failure_of(error, node) from error

    async def unload(self, model: ModelRef, node: str = "") -> None:
        """Have ``node`` forget the model, or everybody; running requests move on in the end."""
        self._spec(model)
        nodes = [node] if node else list(self._views.value.residencies.get(model, {}))
        agents = [self._agent(each) for each in nodes]
        await asyncio.gather(*(self._unload(model, agent) for agent in agents))

    async def rest(self, model: ModelRef, node: str) -> None:
        """Have ``node`` put the model to sleep in its memory, or unload it if it can't sleep."""
        agent = self._agent(node)
        with self._agents.stub(agent) as stub:
            try:
                async for _ in stub.Sleep(SleepRequest(model=ref_to_proto(model))):
                    pass
            except grpc.aio.AioRpcError as error:
                failure = failure_of(error, node)
                if not isinstance(failure, Unsupported):
                    raise failure from error
            else:
                return
        await self._unload(model, agent)

    async def drain(self, node: str, grace_seconds: float) -> int:
        """Have ``node`` finish what runs and take nothing new; streams that were handed over."""
        with self._agents.stub(self._agent(node)) as stub:
            try:
                drained = await stub.Drain(DrainRequest(grace_seconds=grace_seconds))
            except grpc.aio.AioRpcError as error:
                raise failure_of(error, node) from error
        return int(drained.handed_over)

    async def experts(self, model: ModelRef, node: str = "") -> ExpertMap:
        """Where each expert of the model lies on ``node``, or on the first agent that serves it;
        without layers if nobody does."""
        self._spec(model)
        held = self._views.value.residencies.get(model, {})
        serving = sorted(each for each, held_there in held.items() if _serves(held_there))
        if not (node or serving):
            return ExpertMap(model=ref_to_proto(model))
        agent = self._agent(node or serving[0])
        with self._agents.stub(agent) as stub:
            try:
                return await stub.Experts(ExpertMapRequest(model=ref_to_proto(model)))
            except grpc.aio.AioRpcError as error:
                raise failure_of(error, agent.node) from error

    async def pin(self, model: ModelRef, node: str, *, pinned: bool) -> None:
        """Keep the model on ``node`` whatever happens, or no longer."""
        self._spec(model)
        if pinned:
            self._agent(node)

        def change(state: ScalingState) -> None:
            others = [each for each in state.pinned_nodes if each != node]
            state.pinned_nodes[:] = [*others, node] if pinned else others

        await self.note(model, change)

    async def note(
        self,
        model: ModelRef,
        change: Callable[[ScalingState], object],
        *fences: AtRevision,
    ) -> bool:
        """Change the model's scaling state, by compare-and-swap.

        Nothing, and False, if a fence is down or ``change`` is False.
        """
        key = key_of(ScalingKey(model))
        while True:
            entry = await self._store.get(key)
            state = ScalingState(model=ref_to_proto(model), used_at=time.time())
            if entry is not None:
                # What is malformed counts as absent, as in the view: the next note replaces it.
                with suppress(Corrupt):
                    state = loads(entry.value, ScalingState, where=key)
            if change(state) is False:
                return False
            unchanged = AtRevision(key, entry.mod_revision) if entry else Absent(key)
            result = await self._store.transact(
                when=[unchanged, *fences], then=[Put(key, dumps(state))]
            )
            fallen = any(
                found is None or found.mod_revision != fence.mod_revision
                for found, fence in zip(result.found[1:], fences, strict=False)
            )
            if result.succeeded or fallen:
                return result.succeeded

    async def _unload(self, model: ModelRef, agent: AgentStatus) -> None:
        request = UnloadRequest(model=ref_to_proto(model), grace_seconds=GRACE_SECONDS)
        with self._agents.stub(agent) as stub:
            try:
                await stub.Unload(request)
            except grpc.aio.AioRpcError as error:
                failure = failure_of(error, agent.node)
                if not isinstance(failure, ModelNotFound):  # then it is as it should be
                    raise failure from error

    def _agent(self, node: str) -> AgentStatus:
        agent = self._views.value.agents.get(node)
        if agent is None:
            raise AgentNotFound(f"there is no agent {node[:253]!r}", where="node")
        return agent

    def _spec(self, model: ModelRef) -> ModelSpec:
        spec = self._views.value.models.get(model)
        if spec is None:
            raise ModelNotFound(f"the model {model} does not exist", where="model")
        return spec


def _serves(residency: Residency) -> bool:
    return residency.state in (ModelState.MODEL_STATE_ACTIVE, ModelState.MODEL_STATE_EXPANDING)
