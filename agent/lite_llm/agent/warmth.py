"""Keeps the files of sleeping models in memory, so that a wake is a mapping.

The pages are the page cache's, and the same that a worker maps: nothing is held twice. They are
locked as far as the kernel allows; beyond that they stay until somebody needs the memory more.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import mmap
import os
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog

_MADV_POPULATE_READ: Final = 22

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class _Kept:
    num_bytes: int
    cool: Callable[[], None]


class Warmth:
    """A budget of memory for files that nobody uses now."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.locked_bytes = 0
        """Of what is kept; the rest the kernel may take back."""
        self._kept: list[_Kept] = []

    @property
    def used_bytes(self) -> int:
        """Of the budget."""
        return sum(kept.num_bytes for kept in self._kept)

    @asynccontextmanager
    async def keeping(
        self, directory: Path, num_bytes: int, cool: Callable[[], None]
    ) -> AsyncIterator[bool]:
        """The files of ``directory``, ``num_bytes`` in all, kept warm while the block runs.

        False if they are not, having no room. Those asleep for longest are told to ``cool`` when
        room is needed: leaving their block frees it.
        """
        if num_bytes > self.budget_bytes:
            yield False
            return
        mine = _Kept(num_bytes, cool)
        self._kept.append(mine)
        try:
            over = self.used_bytes - self.budget_bytes
            for oldest in self._kept:
                if over <= 0:
                    break
                oldest.cool()
                over -= oldest.num_bytes
            with ExitStack() as pages:
                locked = await asyncio.to_thread(_lock, directory, pages)
                self.locked_bytes += locked
                pages.callback(self._unlocked, locked)
                yield True
        finally:
            self._kept.remove(mine)

    def _unlocked(self, num_bytes: int) -> None:
        self.locked_bytes -= num_bytes


def _lock(directory: Path, pages: ExitStack) -> int:
    """Bring all files into memory; bytes that are locked there."""
    locked, refused = 0, 0
    for path in sorted(each for each in (directory, *directory.rglob("*")) if each.is_file()):
        try:
            with path.open("rb") as file:
                mapped = pages.enter_context(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        except (OSError, ValueError):  # it is gone, or empty: what that means, a wake will say
            continue
        num_bytes = len(mapped)
        address = np.frombuffer(mapped, np.uint8).ctypes.data
        place, length = ctypes.c_void_p(address), ctypes.c_size_t(num_bytes)
        _libc().madvise(place, length, _MADV_POPULATE_READ)
        if _libc().mlock(place, length) == 0:
            locked += num_bytes
        else:
            refused = ctypes.get_errno()
    if refused:
        log.info(
            "sleeping weights are not locked",
            path=str(directory),
            reason=errno.errorcode.get(refused, os.strerror(refused)),
            remedy="raise RLIMIT_MEMLOCK",
        )
    return locked


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
