"""What this machine has: memory of its devices, memory of its own, room on a disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

CGROUP_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Of versions 2 and 1, as a container sees its own; "max" is none."""

AMD_MEMORY: Final = "class/drm/card*/device/mem_info_vram_total"
"""Files below /sys, with the bytes of one GPU each."""

NVIDIA_SMI: Final = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")


def device_bytes(system: Path = Path("/sys")) -> int:
    """Memory of all GPUs together, as their drivers tell; 0 without one that works."""
    amd = sum(int(path.read_text()) for path in system.glob(AMD_MEMORY))
    return amd + sum(_nvidia_mib()) * 2**20


def _nvidia_mib() -> list[int]:
    try:
        told = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):  # not installed, or there is no driver to ask
        return []
    return [int(line) for line in told.stdout.splitlines() if line.strip().isdecimal()]


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
