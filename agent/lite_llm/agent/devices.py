"""GPUs of this node: what is there, what of them an agent budgets, and who computes on them.

The driver's own tool is asked, in a process of its own: the daemon never opens a device.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Final

import structlog

from lite_llm.agent.settings import AgentSettings
from lite_llm.backends import NATIVE
from lite_llm.backends.profiles import profile_for
from lite_llm.contracts.errors import InvalidSettings
from lite_llm.proto.v1.agent_pb2 import Device
from lite_llm.proto.v1.model_pb2 import ModelSpec

SMI_SECONDS: Final = 10.0  # a driver that wakes its devices takes seconds
DEVICE_SHARE: Final = 0.95  # the driver and other programs have the rest
KV_SHARE: Final = 8  # a worker's cache takes one part in so many of the budget, unless told
PROCESS_BYTES: Final = 3 << 30  # a worker's context, its graphs, and what one step computes with
_REACHED_THROUGH: Final = ("cupy", "triton")
_HOST_BACKENDS: Final = frozenset({"llamacpp"})  # its layers stay with the processor
_CPU: Final = "cpu"

log = structlog.get_logger(__name__)


def devices(processor_bytes: int) -> tuple[Device, ...]:
    """GPUs that this process's children may use; without any, the processor with its memory."""
    program = shutil.which("nvidia-smi")
    if program is not None:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        if found := visible(_from_driver(program), shown):
            return found
    name = platform.machine()
    return (Device(index=0, name=name, memory_bytes=processor_bytes, capability=_CPU),)


def parsed_devices(text: str) -> tuple[Device, ...]:
    """From lines like ``0, NVIDIA H100 80GB HBM3, 81559, 9.0``; memory is in MiB."""
    found = []
    for line in text.splitlines():
        fields = [each.strip() for each in line.split(",")]
        if len(fields) == 4 and fields[0].isdigit() and fields[2].isdigit():
            size = int(fields[2]) << 20
            found.append(
                Device(
                    index=int(fields[0]), name=fields[1], memory_bytes=size, capability=fields[3]
                )
            )
    return tuple(found)


def visible(found: Sequence[Device], shown: str | None) -> tuple[Device, ...]:
    """Those of ``CUDA_VISIBLE_DEVICES``, in its order, up to the first that is not there.

    None shows all. Names of devices instead of numbers are not understood: all of them, then.
    """
    if shown is None or "-" in shown.removeprefix("-"):
        return tuple(found)
    by_index = {str(device.index): device for device in found}
    chosen: list[Device] = []
    for index in (each.strip() for each in shown.split(",")):
        if index not in by_index:
            break
        chosen.append(by_index[index])
    return tuple(chosen)


def settled(settings: AgentSettings, found: Sequence[Device]) -> AgentSettings:
    """The same for these devices: ``auto`` decided, and a budget of the first GPU, if there is one.

    Raises :class:`InvalidSettings` where a GPU is asked for and none is there.
    """
    gpus = [device for device in found if device.capability != _CPU]
    if not gpus:
        if settings.device == "cuda":
            raise InvalidSettings(
                "there is no GPU on this node", where="device", remedy="check its driver"
            )
        return replace(settings, device=_CPU, device_bytes=None)
    device, budget = settings.device, settings.device_bytes
    if budget is None:
        budget = int(gpus[0].memory_bytes * DEVICE_SHARE)
    if device == "auto":
        missing = [name for name in _REACHED_THROUGH if find_spec(name) is None]
        device = _CPU if missing else "cuda"
        if missing:
            log.warning(
                "the GPU is not used",
                reason=f"{' and '.join(missing)} is not installed",
                remedy="install lite-llm[gpu]",
            )
    kv_bytes = settings.kv_bytes
    if device == "cuda" and kv_bytes is None:
        kv_bytes = budget // KV_SHARE  # by itself a worker would leave nothing to the next one
    return replace(settings, device=device, device_bytes=budget, kv_bytes=kv_bytes)


def runs_on_device(backend: str, settings: AgentSettings) -> bool:
    """Whether a model of that backend has its memory on the GPU; ``settings`` are settled."""
    if settings.device_bytes is None:
        return False
    if backend in ("", NATIVE):
        return settings.device == "cuda"
    return backend not in _HOST_BACKENDS


def device_cost(spec: ModelSpec, weight_bytes: int, settings: AgentSettings) -> int:
    """Bytes of the GPU that a model is counted with there; ``settings`` are settled.

    vLLM takes the share that its profile names, whatever it needs. Our own engine with experts
    elsewhere takes what there is, so that such a model has the GPU for itself.
    """
    budget = settings.device_bytes or 0
    if spec.backend == "vllm":
        return int(budget * profile_for(spec.profile, weight_bytes).device_share)
    cost = weight_bytes + (settings.kv_bytes or budget // KV_SHARE) + PROCESS_BYTES
    offloads = spec.backend in ("", NATIVE) and settings.expert_hot_bytes is not None
    return min(cost, budget) if offloads else cost


def _from_driver(program: str) -> tuple[Device, ...]:
    query = ["--query-gpu=index,name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(
            [program, *query], capture_output=True, text=True, check=True, timeout=SMI_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("devices can't be listed", program=program, error=str(error))
        return ()
    return parsed_devices(told.stdout)
