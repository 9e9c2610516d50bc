"""Notice before anybody writes to a file that is mapped here, in time to copy what is needed.

Shortening a file under a mapping kills the process that touches the lost pages (SIGBUS). Linux can
hold the writer back: a read lease (fcntl(2), F_SETLEASE) makes an open for writing and a truncation
wait until the holder lets go, but no longer than ``/proc/sys/fs/lease-break-time`` (45 seconds). A
rename over the file or its removal changes nothing under the mapping, and does not wait.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import threading
from collections.abc import Callable
from functools import cache
from typing import Final

_F_SETOWN_EX: Final = 15
_OWNER_IS_THREAD: Final = 0

BeforeChange = Callable[[], None]


class FileGuards(threading.Thread):
    """All guarded files of a process, and the thread that hears of their writers."""

    def __init__(self) -> None:
        super().__init__(name="tiers-guard", daemon=True)
        self._guarded: dict[int, BeforeChange] = {}
        self._lock = threading.RLock()
        self._listening = threading.Event()

    def run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
        self._listening.set()
        while True:
            signal.sigwait({signal.SIGIO})  # says neither which file nor how many
            with self._lock:
                for descriptor in [fd for fd in self._guarded if not _is_held(fd)]:
                    self._guarded[descriptor]()
                    self.release(descriptor)

    def hold(self, descriptor: int, before_change: BeforeChange) -> bool:
        """Guard the file behind a read-only ``descriptor``; False if the system refuses.

        It does for files of other users (without CAP_LEASE), for files that are open for writing
        and for some network file systems. ``before_change`` runs once, on the guarding thread,
        while the writer waits.
        """
        self._listening.wait()
        with self._lock:
            try:
                # Directed at this thread alone: all others would die of the signal.
                owner = struct.pack("ii", _OWNER_IS_THREAD, self.native_id)
                fcntl.fcntl(descriptor, _F_SETOWN_EX, owner)
                fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            except OSError:
                return False
            self._guarded[descriptor] = before_change
            return True

    def release(self, descriptor: int) -> None:
        """End the guard and let a writer go on. Twice is harmless."""
        with self._lock:
            if self._guarded.pop(descriptor, None) is not None:
                fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def file_guards() -> FileGuards:
    """Those of this process; a forked child has none of its parent's threads."""
    return _of_process(os.getpid())


@cache
def _of_process(process: int) -> FileGuards:
    guards = FileGuards()
    guards.start()
    return guards


def _is_held(descriptor: int) -> bool:
    return fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK
