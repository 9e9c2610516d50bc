"""How far a load is, by phase, for whoever watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from lite_llm.tiers.measures import Measures


class Phase(StrEnum):
    """What happens to bytes on their way in."""

    FETCH = "fetch"
    """Over the network, from a store."""
    READ = "read"
    """From a local disk."""
    VERIFY = "verify"
    """Against the chunks' checksums; the same bytes again."""
    TO_GPU = "to_gpu"
    """From host memory to the device."""


@dataclass(frozen=True, slots=True)
class PhaseProgress:
    """Of one phase."""

    num_bytes: int = 0
    seconds: float = 0.0
    """Busy, summed over all threads and connections: may exceed the time on the clock."""


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """Of one load."""

    done_bytes: int
    """In memory and verified; those that were there before the load are counted."""
    total_bytes: int
    phases: Mapping[Phase, PhaseProgress]


class Meter:
    """Counts on the event loop's thread; watchers see the latest state, not every step."""

    def __init__(self, total_bytes: int, measures: Measures) -> None:
        self._measures = measures
        self._done = 0
        self._total = total_bytes
        self._phases = dict.fromkeys(Phase, PhaseProgress())
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def now(self) -> LoadProgress:
        """A snapshot."""
        return LoadProgress(self._done, self._total, MappingProxyType(dict(self._phases)))

    def add(self, phase: Phase, num_bytes: int, seconds: float) -> None:
        """Count work done in a phase."""
        old = self._phases[phase]
        self._phases[phase] = PhaseProgress(old.num_bytes + num_bytes, old.seconds + seconds)
        self._measures.spent(phase, num_bytes, seconds)
        self._wake()

    def arrived(self, num_bytes: int) -> None:
        """Count bytes that are ready for use."""
        self._done += num_bytes
        self._wake()

    def close(self) -> None:
        """No more will come: watchers get the last state and end."""
        self._closed = True
        self._wake()

    async def watch(self) -> AsyncIterator[LoadProgress]:
        """The state now, after changes, and at the end."""
        while True:
            changed, closed = self._changed, self._closed
            yield self.now
            if closed:
                return
            await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
