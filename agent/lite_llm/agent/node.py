"""What the operating system says about this node."""

from __future__ import annotations

import os
import platform

from lite_llm.contracts import Medium
from lite_llm.proto.v1.agent_pb2 import Device, MediumStatus
from lite_llm.wire.values import medium_to_proto


def memory_bytes() -> int:
    """Physical memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def devices() -> list[Device]:
    """The processor, while no GPU is used."""
    return [Device(index=0, name=platform.machine(), memory_bytes=memory_bytes(), capability="cpu")]


def media(*, weight_bytes: int) -> list[MediumStatus]:
    """``weight_bytes``: of all loaded models; without a GPU they lie in ordinary memory."""
    medium = medium_to_proto(Medium.DRAM)
    return [MediumStatus(medium=medium, capacity_bytes=memory_bytes(), used_bytes=weight_bytes)]
