"""What this node is: its devices, how much each medium holds and how fast it is."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import structlog

from lite_llm.checkpoint.durable import write_published
from lite_llm.contracts import Medium
from lite_llm.proto.v1.agent_pb2 import Device

PROBE_BYTES: Final = 64 << 20  # a tenth of a second on the slowest disk that is worth its name
PROBE_PIECE_BYTES: Final = 8 << 20
SMI_SECONDS: Final = 10.0  # a driver that wakes its devices takes seconds

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Node:
    """What does not change while an agent runs."""

    devices: tuple[Device, ...]
    speeds: Mapping[Medium, int] = field(default_factory=dict)
    """Bytes a second towards the next nearer medium, as measured once; none: not known."""


def memory_bytes() -> int:
    """Physical memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def inspected(disks: Mapping[Medium, Path], kept_at: Path) -> Node:
    """This node, a directory being given of each disk; what was measured is kept in ``kept_at``."""
    speeds = _kept(kept_at)
    if speeds is None or disks.keys() - speeds.keys():
        probes: dict[Medium, Callable[[], float]] = {Medium.DRAM: _memory_speed}
        probes |= {medium: partial(_disk_speed, path) for medium, path in disks.items()}
        speeds = {medium: speed for medium, probe in probes.items() if (speed := _measured(probe))}
        told = {medium.name: speed for medium, speed in speeds.items()}
        with contextlib.suppress(OSError):  # it is measured again next time
            write_published(kept_at, json.dumps(told).encode())
    return Node(devices=devices(), speeds=speeds)


def devices() -> tuple[Device, ...]:
    """GPUs as their driver's own tool lists them; without any, the processor."""
    program = shutil.which("nvidia-smi")
    if program is not None and (found := _from_driver(program)):
        return found
    name = platform.machine()
    return (Device(index=0, name=name, memory_bytes=memory_bytes(), capability="cpu"),)


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


def _kept(path: Path) -> dict[Medium, int] | None:
    try:
        told = json.loads(path.read_bytes())
        return {Medium[name]: int(speed) for name, speed in told.items()}
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def _measured(probe: Callable[[], float]) -> int:
    try:
        return int(PROBE_BYTES / probe())
    except OSError as error:
        log.warning("a medium can't be measured", error=str(error))
        return 0


def _memory_speed() -> float:
    """Seconds for a copy of the probe in memory, pages already there."""
    source, target = (np.ones(PROBE_BYTES, np.uint8) for _ in range(2))
    began = time.perf_counter()
    np.copyto(target, source)
    return time.perf_counter() - began


def _disk_speed(directory: Path) -> float:
    """Seconds to read the probe from the disk itself, not from the page cache."""
    path = directory / ".probe"
    block = os.urandom(1 << 20) * (PROBE_PIECE_BYTES >> 20)  # so that no disk can make it small
    try:
        with path.open("wb") as file:
            for _ in range(PROBE_BYTES // PROBE_PIECE_BYTES):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, PROBE_PIECE_BYTES) as target:
                began = time.perf_counter()
                while os.readv(descriptor, [target]):
                    pass
                return time.perf_counter() - began
        finally:
            os.close(descriptor)
    finally:
        path.unlink(missing_ok=True)
