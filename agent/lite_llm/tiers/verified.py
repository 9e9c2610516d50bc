"""Which chunks of which files were seen to be right in the page cache, and need no second look.

A checksum catches what goes wrong while bytes move, and mapped bytes do not. A file is the one it
was as long as its stamp is: every write, and every change of length, gives it another one. Notes of
it outlive this process, not the boot: a worker that starts again maps a model and is ready.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import msgspec
import structlog

from lite_llm.contracts.manifest import FileRecord

MOST_FILES: Final = 1024
SETTLED_NS: Final = 2_000_000_000
"""Clocks of file systems tick: a later write could leave the stamp of a file as young as this."""

log = structlog.get_logger(__name__)


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
    """By stamp and checksums, the last files that were mapped. May be used from any thread."""

    def __init__(self, notes: Path | None = None) -> None:
        """``notes`` is a directory that only we can write to; processes may share it."""
        self._notes = notes
        self._lock = threading.Lock()
        self._marks: OrderedDict[str, set[range]] = OrderedDict()
        self._noted: dict[str, int] = {}

    def of(self, descriptor: int, record: FileRecord) -> set[range]:
        """Ranges of chunks of this file, to look into and to add to.

        The caller holds writers back meanwhile. A file that was just written is not remembered.
        """
        stamp = Stamp.of(descriptor)
        if not stamp.is_settled(time.time_ns()):
            return set()
        name = _name(stamp, record)
        with self._lock:
            if name not in self._marks:
                self._marks[name] = self._read(name)
                self._noted[name] = len(self._marks[name])
            self._marks.move_to_end(name)
            if len(self._marks) > MOST_FILES:
                gone, _ = self._marks.popitem(last=False)
                del self._noted[gone]
            return self._marks[name]

    def save(self) -> None:
        """Note down what was verified since then; a disk that fails costs a second look."""
        if self._notes is None:
            return
        with self._lock:
            fresh = {
                name: sorted((chunks.start, chunks.stop) for chunks in tuple(marks))
                for name, marks in self._marks.items()
                if len(marks) > self._noted[name]
            }
            try:
                self._notes.mkdir(mode=0o700, parents=True, exist_ok=True)
                for name, ranges in fresh.items():
                    _publish(self._notes / name, msgspec.json.encode(ranges))
                    self._noted[name] = len(ranges)
                _prune(self._notes)
            except OSError as error:
                log.warning("notes of verified files not kept", error=str(error))

    def _read(self, name: str) -> set[range]:
        if self._notes is None:
            return set()
        try:
            ranges = msgspec.json.decode(
                (self._notes / name).read_bytes(), type=list[tuple[int, int]]
            )
        except (OSError, msgspec.MsgspecError):
            return set()
        return {range(start, stop) for start, stop in ranges}


def _name(stamp: Stamp, record: FileRecord) -> str:
    sums = hashlib.sha256(msgspec.json.encode([record.chunk_bytes, record.chunk_checksums]))
    told = f"{_boot()} {stamp} {sums.hexdigest()}"
    return hashlib.sha256(told.encode()).hexdigest()


@cache
def _boot() -> str:
    """Pages don't outlive it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return os.urandom(16).hex()


def _publish(path: Path, data: bytes) -> None:
    # No fsync: a note that a power cut takes is of another boot anyway.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _prune(notes: Path) -> None:
    paths = list(notes.iterdir())
    if len(paths) > MOST_FILES:
        ages = sorted((path.stat().st_mtime_ns, path) for path in paths if path.exists())
        for _, path in ages[: len(paths) - MOST_FILES]:
            path.unlink(missing_ok=True)
