"""What this node is: its devices, how much each medium holds and how fast it is."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
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


def inspected(
    disks: Mapping[Medium, Path], kept_at: Path, devices: tuple[Device, ...] = ()
) -> Node:
    """This node with its ``devices``, a directory being given of each disk; what was measured is
    kept in ``kept_at``."""
    speeds = _kept(kept_at)
    if speeds is None or disks.keys() - speeds.keys():
        probes: dict[Medium, Callable[[], float]] = {Medium.DRAM: _memory_speed}
        probes |= {medium: partial(_disk_speed, path) for medium, path in disks.items()}
        speeds = {medium: speed for medium, probe in probes.items() if (speed := _measured(probe))}
        told = {medium.name: speed for medium, speed in speeds.items()}
        with contextlib.suppress(OSError):  # it is measured again next time
            write_published(kept_at, json.dumps(told).encode())
    return Node(devices=devices, speeds=speeds)


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
