"""GPUs as the driver tells of them, and models counted with their memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from lite_llm.agent import AgentSettings, running
from lite_llm.agent.devices import (
    KV_SHARE,
    PROCESS_BYTES,
    device_cost,
    devices,
    parsed_devices,
    runs_on_device,
    settled,
    visible,
)
from lite_llm.agent.state_directory import StateDirectory
from lite_llm.agent.workers import Workers
from lite_llm.contracts.errors import InvalidSettings, OutOfMemory
from lite_llm.metastore import StoreSettings, open_store
from lite_llm.proto.v1 import agent_pb2, model_pb2
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.wire import error_from, open_channel

LIST = "0, NVIDIA H100 80GB HBM3, 81559, 9.0\n1, Tesla T4, 15360, 7.5\nno devices\n"
GIB = 1 << 30


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in of ``nvidia-smi`` that is found first."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{LIST}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


def settings_of(root: Path, device: str, **others: Any) -> AgentSettings:
    return AgentSettings(
        state_directory=root / "state", node="node-1", device=device, prefork=False, **others
    )


def test_the_drivers_list() -> None:
    first, second = parsed_devices(LIST)
    assert (first.name, first.memory_bytes, first.capability) == (
        "NVIDIA H100 80GB HBM3",
        81559 << 20,
        "9.0",
    )
    assert second.index == 1


@pytest.mark.parametrize(
    ("shown", "indices"),
    [(None, [0, 1]), ("1", [1]), ("1, 0", [1, 0]), ("0,7,1", [0]), ("-1", []), ("", [])],
)
def test_only_what_workers_see_counts(shown: str | None, indices: list[int]) -> None:
    assert [device.index for device in visible(parsed_devices(LIST), shown)] == indices


def test_names_instead_of_numbers_hide_nothing() -> None:
    assert len(visible(parsed_devices(LIST), "GPU-8932f937-d72c")) == 2


def test_a_driver_that_fails_leaves_the_processor(driver: Path) -> None:
    assert [device.memory_bytes for device in devices(5)] == [81559 << 20, 15360 << 20]
    driver.write_text("#!/bin/sh\nexit 9\n")
    (processor,) = devices(5)
    assert (processor.capability, processor.memory_bytes) == ("cpu", 5)


def test_auto_is_decided_by_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auto, gpus = settings_of(tmp_path, "auto"), parsed_devices(LIST)
    processor = [agent_pb2.Device(capability="cpu")]
    assert settled(auto, processor).device == "cpu"
    with pytest.raises(InvalidSettings, match="no GPU"):
        settled(settings_of(tmp_path, "cuda"), processor)
    monkeypatch.setattr("lite_llm.agent.devices.find_spec", lambda name: name)
    there = settled(auto, gpus)
    assert there.device == "cuda"
    assert there.device_bytes is not None
    assert 0.9 < there.device_bytes / (81559 << 20) < 1
    assert there.kv_bytes == there.device_bytes // KV_SHARE
    monkeypatch.setattr("lite_llm.agent.devices.find_spec", lambda _: None)
    lacking = settled(auto, gpus)
    assert (lacking.device, lacking.kv_bytes) == ("cpu", None)
    assert not runs_on_device("", lacking)
    assert runs_on_device("vllm", lacking)
    assert not runs_on_device("llamacpp", lacking)


def test_what_a_model_costs_there(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "cuda", device_bytes=40 * GIB, kv_bytes=GIB)
    native, vllm = model_pb2.ModelSpec(), model_pb2.ModelSpec(backend="vllm", profile="medium")
    assert device_cost(native, 8 * GIB, settings) == 9 * GIB + PROCESS_BYTES
    assert device_cost(vllm, 8 * GIB, settings) == int(0.45 * 40 * GIB)
    offloading = settings_of(
        tmp_path, "cuda", device_bytes=40 * GIB, kv_bytes=GIB, expert_hot_bytes=GIB
    )
    assert device_cost(native, 400 * GIB, offloading) == 40 * GIB


def test_workers_hear_where_they_compute(tmp_path: Path) -> None:
    workers = Workers(StateDirectory(tmp_path), settings_of(tmp_path, "cuda"))
    options = workers._engine_options("1")
    assert options[options.index("--device") + 1] == "cuda"


async def test_models_are_counted_with_the_gpu_and_not_with_the_machine(
    tmp_path: Path, driver: Path
) -> None:
    checkpoint = tiny_llama(tmp_path / "tiny", seed=5)
    settings = settings_of(tmp_path, "cuda", memory_bytes=0, device_bytes=2 * GIB)
    async with (
        open_store(StoreSettings()) as store,
        running(settings, store) as agent,
        open_channel(agent.grpc_address) as channel,
    ):
        stub = AgentStub(channel)
        status = (await stub.Status(agent_pb2.AgentStatusRequest())).status
        assert status.devices[0].name.startswith("NVIDIA")
        gpu, dram = status.media[:2]
        assert (gpu.medium, gpu.capacity_bytes) == (model_pb2.MEDIUM_GPU, 2 * GIB)
        assert dram.medium == model_pb2.MEDIUM_DRAM

        async def refusal(backend: str) -> Exception:
            spec = model_pb2.ModelSpec(backend=backend, memory_bytes=3 * GIB)
            spec.ref.namespace, spec.ref.name = "default", f"tiny-{backend}"
            spec.source.uri = str(checkpoint)
            try:
                async for _ in stub.Load(agent_pb2.LoadRequest(spec=spec)):
                    pass
            except grpc.aio.AioRpcError as failure:
                return error_from(failure, where="agent")
            raise AssertionError("it was loaded")

        for backend, room in (("native", "2.0 GiB"), ("llamacpp", "0 B")):
            failure = await refusal(backend)
            assert isinstance(failure, OutOfMemory)
            assert f"do not fit into {room}" in str(failure)


@pytest.mark.gpu
async def test_a_model_on_a_real_gpu_takes_of_its_budget(tmp_path: Path) -> None:
    checkpoint = tiny_llama(tmp_path / "tiny", seed=5)
    settings = settings_of(tmp_path, "auto", kv_bytes=GIB)
    async with (
        open_store(StoreSettings()) as store,
        running(settings, store) as agent,
        open_channel(agent.grpc_address) as channel,
    ):
        stub = AgentStub(channel)
        spec = model_pb2.ModelSpec()
        spec.ref.namespace, spec.ref.name = "default", "tiny"
        spec.source.uri = str(checkpoint)
        async for _ in stub.Load(agent_pb2.LoadRequest(spec=spec)):
            pass
        gpu = (await stub.Status(agent_pb2.AgentStatusRequest())).status.media[0]
        assert gpu.medium == model_pb2.MEDIUM_GPU
        assert GIB + PROCESS_BYTES < gpu.used_bytes < gpu.capacity_bytes
