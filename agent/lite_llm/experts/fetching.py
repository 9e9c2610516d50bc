"""Experts on their way into hot slots: from warm ones, or from disks and stores through them.

A table decides what stays warm. What it says holds at once; bytes follow as jobs get to it. So a
slot may be another expert's before its last job is over: that one is cancelled, or waited for by
the next.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

from lite_llm.contracts.tiers import Medium
from lite_llm.experts.crew import DEMAND, Crew, Job
from lite_llm.experts.record_layout import RecordLayout
from lite_llm.experts.settings import ExpertSettings
from lite_llm.experts.slot_table import Decision, SlotTable
from lite_llm.experts.slots import Buffers, FetchJob, HotSlot, Slot, warm_memory
from lite_llm.tiers import Copier, Piece, RecordReader


@dataclass(frozen=True, slots=True)
class Stored:
    """Where an expert's record is, and what it looks like."""

    layout: RecordLayout
    pieces: tuple[Piece, ...]


@dataclass
class Tally:
    """What came from where; added to by all threads."""

    fetched: Counter[Medium] = field(default_factory=Counter)
    """Experts, by the medium that they were found on."""
    num_bytes: Counter[Medium] = field(default_factory=Counter)
    seconds: defaultdict[Medium, float] = field(default_factory=lambda: defaultdict(float))
    """Of the threads that brought them."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, medium: Medium, num_bytes: int, seconds: float) -> None:
        """One more."""
        with self._lock:
            self.fetched[medium] += 1
            self.num_bytes[medium] += num_bytes
            self.seconds[medium] += seconds


class Fetcher:
    """Called from one thread; its own threads do the work."""

    def __init__(
        self,
        stored: Sequence[Stored],
        layers: Mapping[int, Sequence[int]],
        copier: Copier,
        reader: RecordReader,
        settings: ExpertSettings,
    ) -> None:
        """``copier`` fills hot slots. Raises :class:`InvalidSettings` for too few warm bytes."""
        self.tally = Tally()
        self._stored = stored
        self._copier = copier
        self._reader = reader
        every = [one.pieces for one in stored]
        record_bytes, scratch_bytes = max(map(reader.room, every)), max(map(reader.scratch, every))
        apart = -(-(record_bytes + scratch_bytes) // record_bytes)  # slots that a thread works in
        with ExitStack() as held:
            memory = warm_memory(settings.warm_bytes, record_bytes, least_slots=apart)
            held.callback(memory.close)
            self.arena = memory.arena
            threads = min(settings.readers, memory.num_slots // apart)
            num_slots = memory.num_slots - threads * apart
            self.table: SlotTable[int] = SlotTable(
                layers, num_slots, settings.policy, seed=settings.seed
            )
            self._slots = [Slot(memory.slots(number)) for number in range(num_slots)]
            held.callback(self._slots.clear)
            buffers = [
                Buffers(memory.slots(first), memory.slots(first + 1, apart - 1))
                for first in range(num_slots, memory.num_slots, apart)
            ]
            self._crew = Crew("experts", buffers)
            buffers.clear()
            held.callback(self._crew.close)
            self._closing = held.pop_all()

    def close(self) -> None:
        """Wait for the threads, and give the memory back."""
        self._closing.close()

    def demand(self, layer: int, experts: Iterable[int], prompts: Collection[int]) -> Decision[int]:
        """What of these is to lie in warm slots, until it is released: before they are started.

        ``prompts``: that no row decodes with.
        """
        ordered = sorted(experts)
        return self.table.demand(
            layer,
            [expert for expert in ordered if expert not in prompts],
            [expert for expert in ordered if expert in prompts],
        )

    def release(self, decision: Decision[int]) -> None:
        """Nobody waits for what was started for it any more."""
        self.table.release(decision)

    def start(self, expert: int, slot: HotSlot, urgency: float = DEMAND) -> FetchJob:
        """Have an expert brought into a slot, and into its warm one if it has that."""
        place = self.table.find(expert)
        warm = None if place is None else self._slots[place.slot]
        after = slot.vacated()
        if warm is not None:
            after += warm.vacated()
        job: FetchJob = Job(partial(self._bring, expert, slot, warm, slot.fence), after)
        slot.jobs, slot.coming = [*after, job], (expert, job)
        if warm is not None:
            warm.jobs = [*after, job]
        self._crew.submit(job, urgency)
        return job

    def expect(self, expert: int, slot: HotSlot, probability: float, urgency: float) -> None:
        """Have it brought when nobody waits for anything more urgent."""
        self.table.want(expert, probability)
        self.start(expert, slot, urgency)

    def hurry(self, job: FetchJob) -> None:
        """A step waits for it now."""
        self._crew.submit(job, DEMAND)

    def _bring(
        self, expert: int, slot: HotSlot, warm: Slot | None, fence: Any, buffers: Buffers
    ) -> None:
        began, medium = perf_counter(), Medium.DRAM
        stored = self._stored[expert]
        slot.content = None
        source = buffers.record if warm is None else warm.memory
        if warm is None or warm.content != expert:
            if warm is not None:
                warm.content = None
            medium = self._reader.read(stored.pieces, source, buffers.scratch)
            if warm is not None:
                warm.content = expert
        if fence is not None:
            fence.synchronize()
        num_bytes = stored.layout.num_bytes
        if stored.layout.is_verbatim:
            with source[:num_bytes] as record:
                self._copier.copy(record, slot.memory[:num_bytes])
        else:
            stored.layout.convert(source, slot.weights(stored.layout))
        slot.content = expert
        self.tally.add(medium, num_bytes, perf_counter() - began)
