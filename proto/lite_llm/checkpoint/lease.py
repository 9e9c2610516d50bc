"""A writer's lease on a directory: one at a time, given back by the kernel when its holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lite_llm.contracts.errors import Conflict

LEASE_NAME: Final = ".writer.lock"


@contextmanager
def writer_lease(directory: Path) -> Iterator[None]:
    """Hold ``directory`` alone for the block; :class:`Conflict` if another writer does."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(directory / LEASE_NAME, flags, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Conflict(
            f"{directory} is being written by another process",
            where=str(directory),
            remedy="wait until it is done, or choose another directory",
        ) from error
    finally:
        os.close(descriptor)
