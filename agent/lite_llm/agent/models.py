"""All models on this agent: loads join, unloads wait, and nothing outlives the block."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from lite_llm.agent.changes import Changes
from lite_llm.agent.hosted import Goal, HostedModel
from lite_llm.agent.residency import Holding
from lite_llm.agent.sources import check_spec, is_distant, path_of
from lite_llm.agent.upkeep import House, keep
from lite_llm.contracts import LiteLLMError, ModelRef
from lite_llm.contracts.errors import InvalidRequest, ModelNotFound, NoAgent, WorkerCrashed
from lite_llm.proto.v1.model_pb2 import ModelSpec
from lite_llm.wire import ref_from_proto

log = structlog.get_logger(__name__)


class Models:
    """By name. ``changes`` counts everything that happens to any of them."""

    def __init__(self, house: House, changes: Changes) -> None:
        self.changes = changes
        self._house = house
        self._memories = house.memories
        self._models: dict[ModelRef, HostedModel] = {}
        self._tasks: dict[ModelRef, asyncio.Task[None]] = {}
        self._unloading: set[asyncio.Task[None]] = set()
        self._draining = ""

    @property
    def holdings(self) -> list[Holding]:
        """Of every model, in order of name."""
        return [self._models[ref].holding for ref in sorted(self._models)]

    @property
    def hosted(self) -> list[HostedModel]:
        """Every model, in order of name."""
        return [self._models[ref] for ref in sorted(self._models)]

    @property
    def draining(self) -> bool:
        """Whether new loads and requests are refused."""
        return bool(self._draining)

    def get(self, ref: ModelRef) -> HostedModel:
        """The model, or :class:`ModelNotFound`."""
        if ref in self._models:
            return self._models[ref]
        raise ModelNotFound(f"{ref} is not on this agent", where=str(ref), remedy="load it first")

    def load(self, spec: ModelSpec, goal: Goal = Goal.DEVICE) -> HostedModel:
        """Begin to bring it to its goal, or join what is under way; one that failed starts anew.

        A model that is nearer already stays there.
        """
        ref = ref_from_proto(spec.ref)
        if self.draining:
            raise NoAgent("the agent is draining", where=str(ref), remedy="choose another agent")
        check_spec(spec)
        if not is_distant(spec.source):
            path_of(spec.source)
        model = self._models.get(ref) or HostedModel(
            ref,
            self.changes.notify,
            settle_seconds=self._house.settings.settle_seconds,
            restarts=self._house.settings.restarts,
            metrics=self._house.metrics,
        )
        if model.leaving:
            raise NoAgent(f"{ref} is being unloaded", where=str(ref), retry_after=1.0)
        if ref in self._tasks and not self._tasks[ref].done():
            self._check_joinable(model, spec)
            self._raise(model, goal)
            return model
        _check_breaker(model)
        self._models[ref] = model
        model.begin(spec)
        self._raise(model, goal)
        self._tasks[ref] = asyncio.create_task(keep(model, self._house), name=str(ref))
        return model

    def wake(self, ref: ModelRef) -> HostedModel:
        """Bring a model that is here to where it serves."""
        return self.load(self.get(ref).spec)

    def sleep(self, ref: ModelRef) -> HostedModel:
        """Let a model finish what runs, then give its device memory back."""
        model = self.get(ref)
        if model.goal is Goal.DEVICE:
            model.want(Goal.MEMORY)
            self._memories.remember(model.spec, model.goal)
        return model

    async def unload(self, ref: ModelRef, grace_seconds: float) -> None:
        """Give running requests their time, then forget the model; goes on if the caller leaves."""
        model, task = self.get(ref), self._tasks[ref]
        self._memories.forget(ref)
        model.leaving = True
        model.freeze("unloading")
        unloading = asyncio.create_task(self._unload(model, task, grace_seconds))
        self._unloading.add(unloading)
        unloading.add_done_callback(self._unloading.discard)
        await asyncio.shield(unloading)

    async def drain(self, grace_seconds: float) -> int:
        """Refuse what is new, end what runs; returns how many streams were handed over."""
        self._draining = "draining"
        for model in self._models.values():
            model.leaving = True
            model.freeze(self._draining)
        self.changes.notify()
        finishing = [model.finish_streams(grace_seconds) for model in self._models.values()]
        return sum(await asyncio.gather(*finishing))

    def restore(self) -> None:
        """Bring back what an agent that died here held."""
        for spec, goal in self._memories.recalled():
            log.info("model is brought back", model=str(ref_from_proto(spec.ref)))
            try:
                self.load(spec, goal)
            except LiteLLMError as error:
                log.warning("model can't be brought back", error=str(error))
                self._memories.forget(ref_from_proto(spec.ref))

    async def close(self) -> None:
        """End all workers. May be called again."""
        for unloading in self._unloading:
            unloading.cancel()
        for ref, task in self._tasks.items():
            self._memories.forget(ref)
            if not task.done():
                self._models[ref].abandon()
                task.cancel()
        ending = [*self._tasks.values(), *self._unloading]
        await asyncio.gather(*ending, return_exceptions=True)

    async def _unload(
        self, model: HostedModel, task: asyncio.Task[None], grace_seconds: float
    ) -> None:
        await model.finish_streams(grace_seconds)
        model.abandon()
        model.want(Goal.NOWHERE)
        if not model.state.runs_requests:
            task.cancel()
        await asyncio.wait([task])
        if self._models.get(model.ref) is model:  # and not one that was loaded since
            del self._models[model.ref], self._tasks[model.ref]
            self.changes.notify()

    def _raise(self, model: HostedModel, goal: Goal) -> None:
        model.want(max(goal, model.goal))
        self._memories.remember(model.spec, model.goal)

    def _check_joinable(self, model: HostedModel, spec: ModelSpec) -> None:
        if model.spec.source != spec.source:
            raise InvalidRequest(
                f"{model.ref} is here from {model.spec.source.uri}",
                where="source.uri",
                remedy="unload it before loading it from elsewhere",
            )


def _check_breaker(model: HostedModel) -> None:
    now = time.monotonic()
    if seconds := model.restarts.closed_in(now):
        raise WorkerCrashed(
            f"{model.ref} {model.restarts.words(now)}: {model.holding.reason}",
            where=str(model.ref),
            remedy=f"see why; it is tried again in {seconds:.0f} s",
            retry_after=seconds,
        )


@asynccontextmanager
async def hosting(house: House, changes: Changes) -> AsyncIterator[Models]:
    """Models whose workers end with the block."""
    models = Models(house, changes)
    try:
        models.restore()
        yield models
    finally:
        await models.close()
