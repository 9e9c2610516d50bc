"""SPEC-010 under random events: models whose workers are stand-ins, everything else is real."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lite_llm.agent import AgentSettings
from lite_llm.agent.changes import Changes
from lite_llm.agent.checkpoints import Checkpoints, LocalCheckpoint
from lite_llm.agent.hosted import Goal, HostedModel
from lite_llm.agent.memories import Memories
from lite_llm.agent.memory import Memory
from lite_llm.agent.models import Models
from lite_llm.agent.restarts import RestartPolicy
from lite_llm.agent.state_directory import StateDirectory
from lite_llm.agent.upkeep import House
from lite_llm.agent.warmth import Warmth
from lite_llm.agent.workers import Workers
from lite_llm.contracts import LiteLLMError, Medium, ModelRef, ModelState
from lite_llm.contracts.errors import Cancelled, ModelNotFound, NoAgent, WorkerCrashed
from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2
from lite_llm.wire import Line, ref_to_proto
from lite_llm.wire.values import state_to_proto

WEIGHTS, ROOM = 100, 2  # bytes of a model, and how many fit
NAMES = [f"m{number}" for number in range(5)]
QUICK = RestartPolicy(first_seconds=0.001, longest_seconds=0.002, open_seconds=0.01)
WAIT = 20.0


class Process:
    """A worker that needs no process: it answers, and can be made to crash."""

    def __init__(self, model: ModelRef) -> None:
        self.model = model
        self.stub = self
        self.line = Line(cast(Any, self))
        self.line._is_single = True  # each generation on a call of its own
        self.ended = asyncio.Event()
        self.is_silent = False
        """Its streams have no end."""

    async def wait_ended(self) -> WorkerCrashed:
        await self.ended.wait()
        return WorkerCrashed(f"the worker of {self.model} was ended", where=str(self.model))

    async def error_from(self, failure: grpc.aio.AioRpcError) -> LiteLLMError:
        return await self.wait_ended()

    def kill(self, why: str) -> None:
        self.ended.set()

    async def Load(self, request: agent_pb2.LoadRequest) -> AsyncIterator[Any]:
        for state in (ModelState.INIT, ModelState.WARM, ModelState.ACTIVE):
            await asyncio.sleep(0)
            if self.ended.is_set():
                raise await self.wait_ended()
            yield generate_pb2.LoadProgress(
                phase=generate_pb2.LOAD_PHASE_READ, state=state_to_proto(state)
            )

    async def Status(self, request: object, timeout: float = 0) -> agent_pb2.AgentReport:
        return agent_pb2.AgentReport(residencies=[agent_pb2.Residency(context_tokens=9)])

    def Generate(self, requests: object) -> Call:
        return Call(self)


class Call:
    """A stream of three events."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._cancelled = asyncio.Event()
        self._when_done: list[Callable[[object], object]] = []

    async def __aiter__(self) -> AsyncIterator[generate_pb2.GenerateEvent]:
        for sequence in range(3):
            await asyncio.sleep(0)
            if self._process.is_silent:
                await self._cancelled.wait()
            if self._cancelled.is_set():
                raise asyncio.CancelledError
            if self._process.ended.is_set():
                raise await self._process.wait_ended()
            yield generate_pb2.GenerateEvent(sequence=sequence)
        self.cancel()

    def add_done_callback(self, callback: Callable[[object], object]) -> None:
        self._when_done.append(callback)

    def cancel(self) -> None:
        self._cancelled.set()
        for callback in self._when_done:
            callback(self)


class Processes:
    def __init__(self) -> None:
        self.running: dict[ModelRef, Process] = {}

    @asynccontextmanager
    async def open(self, model: ModelRef, backend: str) -> AsyncIterator[Process]:
        assert model not in self.running, "two workers of one model"
        process = self.running[model] = Process(model)
        assert len(self.running) <= ROOM, "more models than there is memory for"
        try:
            yield process
        finally:
            del self.running[model]


class Disk:
    """Every checkpoint is here already."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @asynccontextmanager
    async def held(
        self, source: object, tell: object, *, distrusted: bool = False
    ) -> AsyncIterator[LocalCheckpoint]:
        await asyncio.sleep(0)
        yield LocalCheckpoint(self.root, WEIGHTS)


class World:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.processes = Processes()
        directory = StateDirectory(root / "state")
        directory.make()
        agent = AgentSettings(
            state_directory=root / "state",
            worker_bytes=0,
            settle_seconds=0.001,
            patience_seconds=0.05,
            restarts=QUICK,
        )
        changes = Changes()
        disk: Any = Disk(root)
        workers: Any = self.processes
        self.house = House(
            settings=agent,
            checkpoints=disk,
            workers=workers,
            memory=Memory(ROOM * WEIGHTS, changes, patience_seconds=agent.patience_seconds),
            warmth=Warmth(2 * WEIGHTS),
            memories=Memories(directory),
            kv_bytes=0,
            tier_set=None,  # type: ignore[arg-type]  # no model here names one
        )
        self.models = Models(self.house, changes)
        self.tasks: list[asyncio.Task[None]] = []

    def spec(self, name: str) -> model_pb2.ModelSpec:
        spec = model_pb2.ModelSpec(ref=ref_to_proto(ModelRef("default", name)))
        spec.source.uri = str(self.root)
        return spec

    async def do(self, event: str, name: str) -> None:
        ref = ModelRef("default", name)
        try:
            match event:
                case "load":
                    self.models.load(self.spec(name))
                case "prefetch":
                    self.models.load(self.spec(name), Goal.MEMORY)
                case "sleep":
                    self.models.sleep(ref)
                case "ask":
                    self.tasks.append(asyncio.create_task(self.ask(self.models.get(ref))))
                case "crash":
                    if ref in self.processes.running:
                        self.processes.running[ref].kill("")
                case "unload":
                    self.tasks.append(asyncio.create_task(self.unload(ref)))
        except (ModelNotFound, NoAgent, WorkerCrashed):
            pass  # what is refused must leave everything as it was

    async def ask(self, model: HostedModel) -> None:
        try:
            await model.wait_ready()
            stream = model.open_stream(generate_pb2.GenerateRequest(), no_more())
            async for _ in stream.events():
                pass
        except LiteLLMError:
            pass

    async def unload(self, ref: ModelRef) -> None:
        with suppress(ModelNotFound):
            await self.models.unload(ref, 1.0)

    def check(self) -> None:
        memory = self.house.memory
        assert memory.used_bytes <= memory.budget_bytes
        assert self.house.warmth.used_bytes <= self.house.warmth.budget_bytes + len(NAMES) * WEIGHTS
        for model in self.models.hosted:
            if model.state.takes_requests:
                assert model.worker is not None, "Active without a worker"
                assert model.medium is Medium.GPU


async def no_more() -> AsyncIterator[generate_pb2.GenerateRequest]:
    return
    yield


EVENTS = ["load", "load", "ask", "ask", "prefetch", "sleep", "crash", "unload"]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=st.lists(st.tuples(st.sampled_from(EVENTS), st.sampled_from(NAMES)), max_size=40),
    pauses=st.integers(0, 4),
)
def test_no_event_breaks_an_invariant(
    events: list[tuple[str, str]], pauses: int, tmp_path: Path
) -> None:
    # An event that the state machine refuses raises InvalidTransition, and fails this test.
    async def walk() -> None:
        world = World(tmp_path)
        for event, name in events:
            await world.do(event, name)
            for _ in range(pauses):
                await asyncio.sleep(0)
                world.check()
        async with asyncio.timeout(WAIT):
            await asyncio.gather(*world.tasks)
            for name in NAMES:  # whatever happened, each can still be brought to serve
                await world.do("unload", name)
            await asyncio.gather(*world.tasks)
            for name in NAMES:
                model = world.models.load(world.spec(name))
                async for _ in model.follow(lambda model=model: model.state.takes_requests):  # type: ignore[misc]
                    world.check()
                await world.ask(model)
        await world.models.drain(1.0)
        await world.models.close()
        assert not world.processes.running
        assert world.house.memory.used_bytes == world.house.warmth.used_bytes == 0

    asyncio.run(walk())


@pytest.mark.parametrize("seed", range(3))
async def test_many_models_share_memory_for_three(seed: int, tmp_path: Path) -> None:
    world, chance = World(tmp_path), random.Random(seed)
    for name in NAMES:
        world.models.load(world.spec(name), Goal.DISK)
    answered = 0

    async def client() -> None:
        nonlocal answered
        for _ in range(40):
            model = world.models.get(ModelRef("default", chance.choice(NAMES)))
            await model.wait_ready()
            async for _ in model.open_stream(generate_pb2.GenerateRequest(), no_more()).events():
                world.check()
            answered += 1

    async with asyncio.timeout(WAIT), asyncio.TaskGroup() as clients:
        for _ in range(6):
            clients.create_task(client())
    assert answered == 240
    await world.models.close()


async def with_a_stream(world: World) -> HostedModel:
    """A model whose one stream has no end."""
    model = world.models.load(world.spec("m0"))
    await model.wait_ready()
    world.processes.running[model.ref].is_silent = True
    world.tasks.append(asyncio.create_task(world.ask(model)))
    await model.wait_until(lambda: model.has_streams)
    return model


async def test_who_waits_for_a_load_is_told_of_an_unload(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with asyncio.timeout(WAIT):
        model = await with_a_stream(world)
        world.models.sleep(model.ref)
        await model.wait_until(lambda: model.state is ModelState.FROZEN)
        world.models.load(world.spec("m0"))
        progress = model.follow(lambda: model.state.takes_requests)
        await anext(progress)
        await world.models.unload(model.ref, 0.0)
        with pytest.raises(Cancelled, match="given up"):
            async for _ in progress:
                pass
        await asyncio.gather(*world.tasks)


async def test_an_unload_goes_on_without_its_caller(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with asyncio.timeout(WAIT):
        model = await with_a_stream(world)
        unloading = asyncio.create_task(world.models.unload(model.ref, 0.05))
        await model.wait_until(lambda: model.leaving)
        unloading.cancel()
        await asyncio.gather(*world.tasks)
        while world.models.hosted:
            await world.models.changes.beyond(world.models.changes.version)
    assert not world.processes.running


async def test_what_this_agent_does_not_understand_keeps_it_from_no_start(tmp_path: Path) -> None:
    world = World(tmp_path)
    newer, known = world.spec("m0"), world.spec("m1")
    newer.backend = "of a later version"
    for spec in (newer, known):
        world.house.memories.remember(spec, Goal.DISK)
    world.models.restore()
    assert [str(model.ref) for model in world.models.hosted] == ["default/m1"]
    await world.models.close()


async def test_an_unload_leaves_what_was_loaded_since(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with asyncio.timeout(WAIT):
        model = world.models.load(world.spec("m0"))
        await model.wait_ready()

        def unload_again(_: object) -> None:  # when the model is gone and still has its name
            world.tasks.append(asyncio.create_task(world.unload(model.ref)))

        world.models._tasks[model.ref].add_done_callback(unload_again)
        await world.models.unload(model.ref, 0.0)
        later = world.models.load(world.spec("m0"))
        await asyncio.gather(*world.tasks)
        assert world.models.hosted == [later]
        await later.wait_ready()
    await world.models.close()


def test_stand_ins_have_what_is_used() -> None:
    assert hasattr(Workers, "open")
    assert hasattr(Checkpoints, "held")
