"""What this machine has: memory of its devices, memory of its own, room on a disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

CGROUP_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Of versions 2 and 1, as a container sees its own; "max" is none."""

DEVICES: Final = (Path("/dev/nvidiactl"), Path("/dev/kfd"))
"""Of CUDA's driver and of ROCm's: without either, asking torch would only cost its import."""


def device_bytes(nodes: Iterable[Path] = DEVICES) -> int:
    """Memory of all GPUs together; 0 without one."""
    if not any(node.exists() for node in nodes):
        return 0
    from torch import cuda

    count = cuda.device_count() if cuda.is_available() else 0
    return sum(cuda.get_device_properties(number).total_memory for number in range(count))


def memory_bytes(limits: Iterable[Path] = CGROUP_LIMITS) -> int:
    """Physical memory, or the part of it that this container may use."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in limits:
        text = path.read_text().strip() if path.exists() else ""
        if text.isdecimal():
            found.append(int(text))
    return min(found)


def disk_bytes(directory: Path) -> int:
    """Room that is left where ``directory`` lies."""
    return shutil.disk_usage(directory).free
