"""Which chunks of which files were seen to be right in the page cache, and need no second look.

A checksum catches what goes wrong while bytes move, and mapped bytes do not. A file is the one it
was as long as its stamp is: every write, and every change of length, gives it another one.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

MOST_FILES: Final = 1024
SETTLED_NS: Final = 2_000_000_000
"""Clocks of file systems tick: a later write could leave the stamp of a file as young as this."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file's identity and the times of its last changes, in nanoseconds."""

    device: int
    inode: int
    num_bytes: int
    mtime: int
    ctime: int

    @classmethod
    def of(cls, descriptor: int) -> Stamp:
        status = os.fstat(descriptor)
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )

    def is_settled(self, now: int) -> bool:
        """Whether a write from ``now`` on, in nanoseconds, would show in the stamp."""
        return max(self.mtime, self.ctime) + SETTLED_NS < now


class VerifiedChunks:
    """By stamp, the last files that were mapped. May be used from any thread."""

    def __init__(self) -> None:
        self._marks: OrderedDict[Stamp, set[range]] = OrderedDict()

    def of(self, descriptor: int) -> set[range]:
        """Ranges of chunks of this file, to look into and to add to.

        The caller holds writers back meanwhile. A file that was just written is not remembered.
        """
        stamp = Stamp.of(descriptor)
        if not stamp.is_settled(time.time_ns()):
            return set()
        marks = self._marks.setdefault(stamp, set())
        self._marks.move_to_end(stamp)
        if len(self._marks) > MOST_FILES:
            self._marks.popitem(last=False)
        return marks
