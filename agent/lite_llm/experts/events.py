"""What became of every expert, in one deterministic sequence: the cache's audit log."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path


class Happening(StrEnum):
    """What can happen to an expert."""

    HIT = "hit"
    """Demanded, and in a slot or on its way there."""
    LOAD = "load"
    """Demanded, and to be brought into a slot."""
    BYPASS = "bypass"
    """Demanded, and to run from a transient place, as no slot may be had for it."""
    PREFETCH = "prefetch"
    """To be brought into a slot ahead of any demand."""
    PROMOTE = "promote"
    """A prompt brought it and decoding demanded it: from now on no prompt's replaces it."""
    EVICT = "evict"
    """Its slot goes to another expert."""
    FAIL = "fail"
    """It did not arrive."""
    HOLD = "hold"
    """In the pool until it is let go."""
    LET_GO = "let go"
    """It may be evicted again."""


@dataclass(frozen=True, slots=True)
class Event:
    """One of them. ``tick`` counts the demands before it; ``slot`` is -1 where it has none."""

    tick: int
    happening: Happening
    expert: Hashable
    slot: int


@dataclass(slots=True)
class EventLog:
    """Events as they happen. Arrivals are none: they come in an order that nobody decides."""

    events: list[Event] = field(default_factory=list)

    def add(self, tick: int, happening: Happening, expert: Hashable, slot: int) -> None:
        """One more."""
        self.events.append(Event(tick, happening, expert, slot))

    def counts(self) -> Counter[Happening]:
        """How many there are of each."""
        return Counter(event.happening for event in self.events)

    def digest(self) -> str:
        """The same for the same sequence, and for no other."""
        digest = blake2b(digest_size=16)
        for line in self.lines():
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()

    def lines(self) -> Iterator[str]:
        """Each event as a JSON array: tick, happening, expert, slot."""
        for event in self.events:
            row = (event.tick, event.happening, str(event.expert), event.slot)
            yield json.dumps(row, separators=(",", ":"))

    def write(self, path: Path) -> None:
        """A line for each event."""
        path.write_text("".join(f"{line}\n" for line in self.lines()))
