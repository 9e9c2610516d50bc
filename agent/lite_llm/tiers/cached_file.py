"""One file in the disk tier while it fills, chunk by chunk, and after.

It fills under a partial name and gets its own by fsync and rename once every chunk is there. What
a crash left in a partial file is believed only after its checksum was seen to be right.
"""

from __future__ import annotations

import os
from pathlib import Path

from lite_llm.contracts.manifest import FileRecord
from lite_llm.contracts.tiers import Medium
from lite_llm.tiers.chunks import Chunks


class CachedFile:
    """Not bound to a loop or a thread; :class:`DiskTier` sees to it that calls do not overlap."""

    def __init__(
        self, key: str, medium: Medium, final: Path, partial: Path, record: FileRecord
    ) -> None:
        """Opens the partial file unless the final one is there; raises ``OSError``."""
        self.key = key
        self.medium = medium
        self.users = 0
        self.final = final
        self.partial = partial
        self._grid = Chunks(record)
        self._descriptor = -1
        self.is_complete = final.exists() and final.stat().st_size == record.num_bytes
        self._present = set(range(self._grid.count)) if self.is_complete else self._resumed()

    @property
    def num_bytes(self) -> int:
        """Of the whole file."""
        return self._grid.record.num_bytes

    @property
    def path(self) -> Path:
        """To read present chunks from."""
        return self.final if self.is_complete else self.partial

    @property
    def is_abandoned(self) -> bool:
        """Whether writing failed: the file takes no more chunks."""
        return not self.is_complete and self._descriptor < 0

    def has(self, chunks: range) -> bool:
        """Whether all of these chunks are worth reading."""
        return self._present.issuperset(chunks)

    def forget(self, chunks: range) -> None:
        """These chunks turned out bad: they are to be written again."""
        self._present.difference_update(chunks)
        if self.is_complete:
            self.final.rename(self.partial)
            self.is_complete = False
            self._descriptor = os.open(self.partial, os.O_RDWR | os.O_CLOEXEC)

    def write(self, chunks: range, view: memoryview) -> None:
        """Store chunks; the last one publishes the file. Raises ``OSError`` and stays as it was."""
        if self.is_complete or self.is_abandoned:
            return
        offset, done = self._grid.start(chunks.start), 0
        num_bytes = self._grid.start(chunks.stop) - offset
        while done < num_bytes:
            with view[done:num_bytes] as rest:
                done += os.pwrite(self._descriptor, rest, offset + done)
        self._present.update(chunks)
        if len(self._present) == self._grid.count:
            self._publish()

    def abandon(self) -> None:
        """Give up on a file that can't be completed, and its bytes."""
        self.close()
        if not self.is_complete:
            self._present.clear()
            self.partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the descriptor; what was written stays for another time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _publish(self) -> None:
        os.fsync(self._descriptor)
        self.final.parent.mkdir(parents=True, exist_ok=True)
        self.partial.rename(self.final)
        fsync_directory(self.final.parent)
        self.is_complete = True
        self.close()

    def _resumed(self) -> set[int]:
        self.final.unlink(missing_ok=True)
        # Again, too: cleaners of temporary files take folders from under long-lived agents.
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not self._grid.is_checked:
                os.truncate(self._descriptor, 0)  # nothing could tell good bytes from torn ones
            os.truncate(self._descriptor, self._grid.record.num_bytes)
            return set(_written(self._descriptor, self._grid))
        except BaseException:
            self.close()
            raise


def _written(descriptor: int, grid: Chunks) -> list[int]:
    """Chunks without a hole: the file system knows which were never written."""
    written: list[int] = []
    position, end = 0, grid.record.num_bytes
    while position < end:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            break
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        first = -(-start // grid.size)
        last = grid.count if position >= end else position // grid.size
        written += range(first, last)
    return written


def fsync_directory(directory: Path) -> None:
    """Make a rename in ``directory`` last."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
