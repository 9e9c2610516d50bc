"""Workers that outlived their agent: found by what it wrote down of them, and ended.

A worker ends by itself when its agent dies, unless it is stuck so deep that no thread of it runs.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path
from typing import Final

import structlog

PID_SUFFIX: Final = ".pid"
REAP_SECONDS: Final = 10.0  # a process that SIGKILL does not end by then waits for a dead disk

log = structlog.get_logger(__name__)


def note(path: Path, pid: int) -> None:
    """Write down a process of ours."""
    path.write_text(f"{pid} {_started_at(pid)}")


def reap(path: Path) -> None:
    """End the process that was noted in ``path``, if it still is the same."""
    fields = path.read_text().split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        return  # its writer died while it wrote
    pid = int(fields[0])
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        handle = os.pidfd_open(pid)
        try:
            # Looked at behind the handle: the number may belong to another process by now.
            if _started_at(pid) != fields[1]:
                return
            log.warning("worker of a dead agent is ended", pid=pid)
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], REAP_SECONDS)
        finally:
            os.close(handle)


def _started_at(pid: int) -> str:
    """In ticks since boot: with the number it names one process (proc(5), field 22)."""
    # The name in field 2 may hold spaces and brackets; nothing behind its last bracket does.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
