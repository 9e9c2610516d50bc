"""The directory of one running agent: sockets and logs of its workers."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lite_llm.agent.orphans import PID_SUFFIX, reap
from lite_llm.contracts.errors import InvalidSettings

_SOCKET_LIMIT = 107  # bytes in sockaddr_un on Linux, without the final zero
_LONGEST_NAME = len("/000000.server.sock")  # of a foreign worker's own server


@dataclass(frozen=True)
class StateDirectory:
    """Paths below the settings' ``state_directory``, made and readable by this user alone."""

    root: Path

    @property
    def sockets(self) -> Path:
        """Emptied when an agent starts: nobody listens there any more."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        """Of each model, what its worker says, and what the one before it said."""
        return self.root / "logs"

    @property
    def specs(self) -> Path:
        """Of each model that is held: what a later agent brings back if this one dies."""
        return self.root / "specs"

    @property
    def notes(self) -> Path:
        """Which bytes of local files were checked already; shared by all workers."""
        return self.root / "verified"

    @property
    def kv(self) -> Path:
        """Of each worker, what has left its key-value cache; gone with it."""
        return self.root / "kv"

    def make(self) -> None:
        """Again, too: cleaners of temporary files take folders from under long-lived agents."""
        for path in (self.root, self.sockets, self.logs, self.specs, self.notes, self.kv):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextmanager
def claimed(root: Path) -> Iterator[StateDirectory]:
    """Own ``root`` while the block runs; :class:`InvalidSettings` if another agent does."""
    directory = StateDirectory(root.absolute())
    if len(os.fsencode(directory.sockets)) + _LONGEST_NAME > _SOCKET_LIMIT:
        raise _unusable(root, "is too long for unix sockets", "choose a shorter path")
    try:
        directory.make()
        lock = (root / "lock").open("w")
    except OSError as error:
        raise _unusable(root, f"can't be used: {error.strerror}", "choose another") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _unusable(root, "belongs to another agent", "give each agent its own") from error
        for stale in directory.sockets.iterdir():
            if stale.suffix == PID_SUFFIX:
                reap(stale)
            stale.unlink()
        for left in directory.kv.iterdir():
            shutil.rmtree(left)
        yield directory


def _unusable(root: Path, what: str, remedy: str) -> InvalidSettings:
    return InvalidSettings(
        f"the state directory {root} {what}", where="state_directory", remedy=remedy
    )
