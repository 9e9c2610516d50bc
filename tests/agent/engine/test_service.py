"""Loads that end early leave a worker that can load again, and nothing behind."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import Corrupt, LiteLLMError, OutOfMemory, StorageFailed
from lite_llm.engine import StepLoop
from lite_llm.engine.compute_thread import ComputeThread
from lite_llm.engine.served import ServingSettings
from lite_llm.engine.service import WorkerService
from lite_llm.kvcache import DiskPages, PageFormat
from lite_llm.kvcache.tree import Place
from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2
from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.tiers import Layer, Load
from lite_llm.wire import ref_to_proto

WAIT = 60.0  # seconds; for the machine's worst day


@asynccontextmanager
async def worker(settings: ServingSettings | None = None) -> AsyncIterator[WorkerService]:
    with ComputeThread(lambda: None) as compute:
        service = WorkerService(compute, settings or ServingSettings())  # type: ignore[abstract]  # the rest is UNIMPLEMENTED
        async with service:
            yield service


def loading(service: WorkerService, directory: Path) -> Any:
    source = model_pb2.ModelSource(uri=str(directory))
    spec = model_pb2.ModelSpec(ref=ref_to_proto(ModelRef("default", "tiny")), source=source)
    return service.Load(agent_pb2.LoadRequest(spec=spec), cast(Any, None))


async def loaded(service: WorkerService, directory: Path) -> list[generate_pb2.LoadProgress]:
    async with asyncio.timeout(WAIT):
        return [step async for step in loading(service, directory)]


async def state(service: WorkerService) -> int:
    report = await service.Status(agent_pb2.AgentStatusRequest(), cast(Any, None))
    return report.residencies[0].state


async def test_a_load_whose_client_leaves_is_given_up(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, deliver = asyncio.Event(), Load.layer

    async def late(self: Load, index: int) -> Layer:
        if index == 1:
            await held.wait()
        return await deliver(self, index)

    async with worker() as service:
        with monkeypatch.context() as patched:
            patched.setattr(Load, "layer", late)
            steps = loading(service, checkpoint)
            assert await anext(steps)
            assert await anext(steps)
            async with asyncio.timeout(WAIT):
                await steps.aclose()
        assert await state(service) == model_pb2.MODEL_STATE_INIT
        assert (await loaded(service, checkpoint))[-1].state == model_pb2.MODEL_STATE_ACTIVE
        assert await state(service) == model_pb2.MODEL_STATE_ACTIVE


async def test_what_stops_a_load_is_told_and_forgotten(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver = Load.layer

    async def broken(self: Load, index: int) -> Layer:
        if index == 2:
            raise LiteLLMError("the disk is gone")
        return await deliver(self, index)

    async with worker() as service:
        with monkeypatch.context() as patched:
            patched.setattr(Load, "layer", broken)
            with pytest.raises(LiteLLMError, match="the disk is gone"):
                await loaded(service, checkpoint)
        await loaded(service, checkpoint)


async def test_a_cut_file_is_named(tmp_path: Path) -> None:
    directory = tiny_llama(tmp_path, seed=5)
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    async with worker() as service:
        with pytest.raises(Corrupt, match=r"model\.safetensors"):
            await loaded(service, directory)


async def test_too_little_memory_for_a_cache_is_said(checkpoint: Path) -> None:
    async with worker(ServingSettings(kv_bytes=1000)) as service:
        with pytest.raises(OutOfMemory):
            await loaded(service, checkpoint)


async def test_a_small_cache_limits_what_can_be_asked(checkpoint: Path) -> None:
    # 16 tokens of 3 layers, 2 heads, 16 dimensions, keys and values, 4 bytes: 12 KiB a page.
    async with worker(ServingSettings(kv_bytes=10 * 12 << 10)) as service:
        await loaded(service, checkpoint)
        report = await service.Status(agent_pb2.AgentStatusRequest(), cast(Any, None))
        assert report.residencies[0].context_tokens == 160


async def test_a_disk_that_takes_no_file_is_said(checkpoint: Path, tmp_path: Path) -> None:
    disk = DiskPages(directory=tmp_path / "missing", num_bytes=1 << 20)
    async with worker(ServingSettings(kv_disk=disk)) as service:
        with pytest.raises(StorageFailed, match="missing"):
            await loaded(service, checkpoint)


async def test_the_pulse_and_the_metrics_are_told(checkpoint: Path) -> None:
    async with worker() as service:
        for steps in (0, 1):
            report = await service.Status(agent_pb2.AgentStatusRequest(), cast(Any, None))
            told = await service.Metrics(agent_pb2.MetricsRequest(), cast(Any, None))
            assert (report.pulse.steps >= 1) == bool(steps)
            assert not report.pulse.stepping
            assert ("vllm:num_requests_running{" in told.text) == bool(steps)
            if not steps:
                await loaded(service, checkpoint)


async def test_a_step_that_hangs_shows_in_the_pulse(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, freed, step = threading.Event(), threading.Event(), StepLoop.step

    def slow(self: StepLoop) -> bool:
        begun.set()
        freed.wait(WAIT)
        return step(self)

    async with worker() as service:
        await loaded(service, checkpoint)
        monkeypatch.setattr(StepLoop, "step", slow)
        assert service._served is not None
        engine = service._served.engine
        engine.wake()
        await asyncio.to_thread(begun.wait, WAIT)
        before = engine.steps
        assert engine.stepping
        freed.set()
    assert engine.steps == before + 1
    assert not engine.stepping


async def test_old_pages_may_be_kept_smaller(checkpoint: Path) -> None:
    held = {}
    for form in (PageFormat.EXACT, PageFormat.INT8):
        settings = ServingSettings(kv_host_bytes=1 << 20, kv_old_pages=form)
        async with worker(settings) as service:
            await loaded(service, checkpoint)
            assert service._served is not None
            ledger = service._served.engine._steps._kv.ledger
            held[form] = ledger.num_free(Place.HOST)
    assert held[PageFormat.INT8] > 3 * held[PageFormat.EXACT] > 0


async def test_a_broken_engine_ends_the_process(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not look alive: the agent starts another worker."""
    ended = asyncio.Event()
    monkeypatch.setattr(os, "_exit", lambda status: ended.set())
    monkeypatch.setattr(StepLoop, "step", lambda self: 1 / 0)
    async with worker() as service:
        load = asyncio.create_task(loaded(service, checkpoint))
        async with asyncio.timeout(WAIT):
            await ended.wait()
        load.cancel()
        await asyncio.wait([load])
