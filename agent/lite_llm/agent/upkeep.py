"""Brings a model to where it is wanted and keeps it there: disk, memory or device.

Levels, not edges: each turn looks at the goal as it is now, and each level's block gives back what
the level took when it is left, whatever the cause.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc.aio
import structlog

from lite_llm.agent.checkpoints import Checkpoints, LocalCheckpoint
from lite_llm.agent.devices import device_cost, runs_on_device
from lite_llm.agent.hosted import Goal, HostedModel
from lite_llm.agent.memories import Memories
from lite_llm.agent.memory import Memory
from lite_llm.agent.residency import words_for
from lite_llm.agent.settings import AgentSettings
from lite_llm.agent.sources import is_distant
from lite_llm.agent.trusting import check_signature, policy_for
from lite_llm.agent.warmth import Warmth
from lite_llm.agent.watchdog import watch
from lite_llm.agent.workers import Worker, Workers
from lite_llm.contracts import LiteLLMError, Medium, ModelEvent, ModelRef, ModelState
from lite_llm.contracts.errors import Corrupt, Internal, WorkerCrashed
from lite_llm.proto.v1 import agent_pb2, model_pb2
from lite_llm.telemetry.metrics import Metrics
from lite_llm.wire.values import state_from_proto

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class House:
    """What the models of a node share."""

    settings: AgentSettings
    checkpoints: Checkpoints
    workers: Workers
    memory: Memory
    warmth: Warmth
    memories: Memories
    kv_bytes: int
    """Counted for each worker's cache."""
    tier_set: Callable[[ModelRef], Awaitable[model_pb2.TierSetSpec]]
    """What a declared TierSet says."""
    metrics: Metrics | None = None
    device: Memory | None = None
    """The GPU's, where there is one."""

    def memory_of(self, backend: str) -> Memory:
        """Where a model of that backend lies: the GPU's, or the machine's."""
        if self.device is not None and runs_on_device(backend, self.settings):
            return self.device
        return self.memory

    def cost_of(self, spec: model_pb2.ModelSpec, checkpoint: LocalCheckpoint) -> int:
        """Bytes of that memory which a worker with this model may take."""
        if spec.memory_bytes:
            return spec.memory_bytes
        memory = self.memory_of(spec.backend)
        if memory is self.device:
            return device_cost(spec, checkpoint.num_bytes, self.settings)
        return checkpoint.num_bytes + self.kv_bytes + self.settings.worker_bytes


async def keep(model: HostedModel, house: House) -> None:
    """Until the model is wanted nowhere.

    Raises nothing of ours: what goes wrong is told in the state, its reason, and to those who
    follow.
    """
    distrusted = False
    try:
        while model.goal is not Goal.NOWHERE:
            try:
                await _hold(model, house, distrusted=distrusted)
                distrusted = False
            except Corrupt as error:
                # A copy of ours went bad; the source still has the truth. Tried once.
                if distrusted or not is_distant(model.spec.source):
                    raise
                distrusted = True
                log.warning("cached checkpoint is checked", model=str(model.ref), error=str(error))
                model.step(ModelEvent.FAILED, f"{error.message}; checking what the cache has")
    except LiteLLMError as error:
        model.failed(error)
    except Exception as error:  # of any kind: one model must not take the daemon along
        log.exception("model failed", model=str(model.ref))
        model.failed(Internal(f"{type(error).__name__} while holding {model.ref}"))
    finally:
        model.found(None)


async def _hold(model: HostedModel, house: House, *, distrusted: bool) -> None:
    """On this machine's disk or nearer, until it is wanted nowhere or needs another look there."""
    source = model.spec.source
    async with house.checkpoints.held(source, model.fetching, distrusted=distrusted) as checkpoint:
        policy = policy_for(model.spec, house.settings.trust)
        await asyncio.to_thread(
            check_signature, checkpoint.directory, policy, backend=model.spec.backend
        )
        model.found(checkpoint)
        while model.goal > Goal.DISK:
            if model.goal is Goal.DEVICE:
                await _serve(model, checkpoint, house)
            else:
                await _sleep(model, checkpoint, house)
    model.found(None)
    if model.goal is Goal.DISK:
        model.tell("cold: on disk")
        await model.wait_until(lambda: model.goal is not Goal.DISK)


async def _sleep(model: HostedModel, checkpoint: LocalCheckpoint, house: House) -> None:
    def cool() -> None:
        if model.goal is Goal.MEMORY:
            model.want(Goal.DISK)

    warmth = house.warmth.keeping(checkpoint.directory, checkpoint.num_bytes, cool)
    async with warmth as is_warm:
        if not is_warm:
            cool()
            return
        model.medium = Medium.DRAM
        if model.state is ModelState.INIT:
            model.step(ModelEvent.LOADED, "warm: in memory")
        else:
            model.tell("warm: asleep in memory")
        await model.wait_until(lambda: model.goal is not Goal.MEMORY)
    model.medium = Medium.NVME


async def _serve(model: HostedModel, checkpoint: LocalCheckpoint, house: House) -> None:
    cost = house.cost_of(model.spec, checkpoint)
    try:
        memory = house.memory_of(model.spec.backend)
        async with memory.room(model, cost, model.waits), _worker(model, house) as worker:
            await _load(model, worker, checkpoint, house)
            await _until_unwanted(model, worker, house.settings.patience_seconds)
        if model.state is ModelState.FROZEN:
            model.step(ModelEvent.RELEASED, "asleep on disk")
    except WorkerCrashed as crash:
        model.medium = Medium.NVME
        await _recover(model, crash)
    finally:
        model.medium = Medium.NVME
        if model.yielding:
            model.yielding = False
            model.want(Goal.DEVICE if model.is_asked_for else min(model.goal, Goal.MEMORY))
            if not model.leaving:
                house.memories.remember(model.spec, model.goal)


async def _recover(model: HostedModel, crash: WorkerCrashed) -> None:
    """Wait for the time of another attempt; raises if there is none."""
    now = time.monotonic()
    seconds = model.restarts.crashed(now)
    if seconds is None:
        raise WorkerCrashed(
            f"{crash.message}; {model.restarts.words(now)}",
            where=crash.where,
            remedy=crash.remedy,
            retry_after=model.restarts.closed_in(now),
        ) from crash
    model.step(ModelEvent.FAILED, f"{crash.message}; another one starts in {seconds:g} s")
    try:
        async with asyncio.timeout(seconds):
            await model.wait_until(lambda: model.goal < Goal.DEVICE)
    except TimeoutError:
        pass


@asynccontextmanager
async def _worker(model: HostedModel, house: House) -> AsyncIterator[Worker]:
    """A worker that is looked after."""
    model.waits("cold: starting a worker process")
    async with house.workers.open(model.ref, model.spec.backend) as worker:
        watching = asyncio.create_task(
            watch(
                worker,
                model.heard,
                every_seconds=house.settings.heartbeat_seconds,
                hang_seconds=house.settings.hang_seconds,
            )
        )
        try:
            yield worker
        finally:
            model.worker = None
            watching.cancel()
            await asyncio.wait([watching])


async def _load(
    model: HostedModel, worker: Worker, checkpoint: LocalCheckpoint, house: House
) -> None:
    spec = model_pb2.ModelSpec()
    spec.CopyFrom(model.spec)
    spec.source.Clear()
    spec.source.uri = str(checkpoint.directory)
    request = agent_pb2.LoadRequest(spec=spec)
    if spec.tier_set:
        request.tier_set.CopyFrom(
            await house.tier_set(ModelRef(model.ref.namespace, spec.tier_set))
        )
    try:
        async for progress in worker.stub.Load(request):
            if model.worker is None and state_from_proto(progress.state) is ModelState.WARM:
                model.worker, model.medium = worker, Medium.DRAM
                event = {
                    ModelState.INIT: ModelEvent.LOADED,
                    ModelState.RECOVERING: ModelEvent.RECOVERED,
                }.get(model.state)
                if event is not None:
                    model.step(event, words_for(progress))
            model.progressed(progress)
        report = await worker.stub.Status(agent_pb2.AgentStatusRequest())
    except grpc.aio.AioRpcError as failure:
        raise await worker.error_from(failure) from failure
    model.medium = Medium.GPU
    model.restarts.served(time.monotonic())
    model.activated(report)


async def _until_unwanted(model: HostedModel, worker: Worker, patience_seconds: float) -> None:
    """Until the model may leave the device and no request runs; raises the end of the worker."""
    ended = asyncio.create_task(worker.wait_ended())
    unwanted = asyncio.create_task(_unwanted(model, patience_seconds))
    try:
        await asyncio.wait((ended, unwanted), return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            # Before the connection is closed: that would tell them nothing of the reason.
            model.take_streams_away(ended.result())
            model.medium = Medium.NVME
            model.step(ModelEvent.FAILED, ended.result().message)
            raise ended.result()
    finally:
        ended.cancel()
        unwanted.cancel()


async def _unwanted(model: HostedModel, patience_seconds: float) -> None:
    await model.wait_until(lambda: model.yielding or model.goal < Goal.DEVICE)
    model.freeze("going to sleep")
    while model.has_streams:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_seconds / 2):
                await model.wait_until(lambda: not model.has_streams)
        model.take_unread_away(patience_seconds)
