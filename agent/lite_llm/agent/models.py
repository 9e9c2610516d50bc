"""All models on this agent: loads join, unloads wait, and nothing outlives the block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lite_llm.agent.changes import Changes
from lite_llm.agent.hosted import HostedModel
from lite_llm.agent.residency import Holding
from lite_llm.agent.settings import AgentSettings
from lite_llm.agent.sources import check_spec, directory_of
from lite_llm.agent.state_directory import StateDirectory, claimed
from lite_llm.contracts import ModelRef, ModelState
from lite_llm.contracts.errors import InvalidRequest, ModelNotFound, NoAgent
from lite_llm.proto.v1.model_pb2 import ModelSpec
from lite_llm.wire import ref_from_proto


class Models:
    """By name. ``changes`` counts everything that happens to any of them."""

    def __init__(self, directory: StateDirectory, settings: AgentSettings) -> None:
        self.changes = Changes()
        self._directory = directory
        self._settings = settings
        self._models: dict[ModelRef, HostedModel] = {}
        self._tasks: dict[ModelRef, asyncio.Task[None]] = {}
        self._draining = ""

    @property
    def holdings(self) -> list[Holding]:
        """Of every model, in order of name."""
        return [self._models[ref].holding for ref in sorted(self._models)]

    @property
    def draining(self) -> bool:
        """Whether new loads and requests are refused."""
        return bool(self._draining)

    def get(self, ref: ModelRef) -> HostedModel:
        """The model, or :class:`ModelNotFound`."""
        if ref in self._models:
            return self._models[ref]
        raise ModelNotFound(f"{ref} is not on this agent", where=str(ref), remedy="load it first")

    def load(self, spec: ModelSpec) -> HostedModel:
        """Begin to load, or join the load in progress; a model that failed is loaded again."""
        ref = ref_from_proto(spec.ref)
        if self.draining:
            raise NoAgent("the agent is draining", where=str(ref), remedy="choose another agent")
        check_spec(spec)
        source = directory_of(spec.source)
        model = self._models.setdefault(ref, HostedModel(ref, self.changes.notify))
        if model.leaving:
            raise NoAgent(f"{ref} is being unloaded", where=str(ref), retry_after=1.0)
        if ref in self._tasks and not self._tasks[ref].done():
            self._check_joinable(model, spec)
        else:
            model.begin(spec)
            running = model.run(source, self._directory, self._settings)
            self._tasks[ref] = asyncio.create_task(running, name=str(ref))
        return model

    async def unload(self, ref: ModelRef, grace_seconds: float) -> None:
        """Give running requests their time, then forget the model."""
        model, task = self.get(ref), self._tasks[ref]
        model.leaving = True
        model.freeze("unloading")
        await model.finish_streams(grace_seconds)
        if model.state is ModelState.FROZEN:
            model.release()
        else:
            model.abandon()
            task.cancel()
        await asyncio.wait([task])
        self._models.pop(ref, None)
        self._tasks.pop(ref, None)
        self.changes.notify()

    async def drain(self, grace_seconds: float) -> int:
        """Refuse what is new, end what runs; returns how many streams were handed over."""
        self._draining = "draining"
        for model in self._models.values():
            model.freeze(self._draining)
        self.changes.notify()
        finishing = [model.finish_streams(grace_seconds) for model in self._models.values()]
        return sum(await asyncio.gather(*finishing))

    async def close(self) -> None:
        """End all workers. May be called again."""
        for ref, task in self._tasks.items():
            if not task.done():
                self._models[ref].abandon()
                task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _check_joinable(self, model: HostedModel, spec: ModelSpec) -> None:
        if model.spec.source != spec.source:
            raise InvalidRequest(
                f"{model.ref} is here from {model.spec.source.uri}",
                where="source.uri",
                remedy="unload it before loading it from elsewhere",
            )


@asynccontextmanager
async def hosting(settings: AgentSettings) -> AsyncIterator[Models]:
    """Models and the state directory, owned together."""
    with claimed(settings.state_directory) as directory:
        models = Models(directory, settings)
        try:
            yield models
        finally:
            await models.close()
