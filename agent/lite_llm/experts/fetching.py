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
from lite_llm.tiers.extents import aligned_up


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


def work_room(stored: Sequence[Stored], reader: RecordReader) -> tuple[int, int]:
    """Bytes of a warm slot, and how many such slots a fetching thread works in."""
    every = [one.pieces for one in stored]
    record_bytes = aligned_up(max(map(reader.room, every)))
    scratch_bytes = max(map(reader.scratch, every))
    return record_bytes, -(-(record_bytes + scratch_bytes) // record_bytes)


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
        record_bytes, apart = work_room(stored, reader)
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

    def start_all(self, slots: Mapping[int, HotSlot]) -> dict[int, FetchJob]:
        """Have experts brought, each into its slot; those that are not among the jobs are there.

        What is warm is copied by the calling thread, while others read: a copy takes less than
        handing it over.
        """
        near = [expert for expert, slot in slots.items() if self._is_near(expert, slot)]
        jobs = {
            expert: self.start(expert, slot) for expert, slot in slots.items() if expert not in near
        }
        for expert in near:
            self._copy(expert, slots[expert])
        return jobs

    def start(self, expert: int, slot: HotSlot, urgency: float = DEMAND) -> FetchJob:
        """Have an expert brought into a slot, and into its warm one if it has that."""
        warm = self._warm(expert)
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

    def _warm(self, expert: int) -> Slot | None:
        place = self.table.find(expert)
        return None if place is None else self._slots[place.slot]

    def _is_near(self, expert: int, slot: HotSlot) -> bool:
        """Whether bringing the expert is no more than a memcpy now."""
        warm = self._warm(expert)
        return (
            warm is not None
            and warm.content == expert
            and slot.is_ours
            and not warm.is_busy
            and not slot.vacated()
        )

    def _copy(self, expert: int, slot: HotSlot) -> None:
        began, warm = perf_counter(), self._warm(expert)
        assert warm is not None
        slot.jobs, slot.coming, slot.content = [], None, None
        self._fill(expert, warm.memory, slot)
        slot.content = expert
        num_bytes = self._stored[expert].layout.num_bytes
        self.tally.add(Medium.DRAM, num_bytes, perf_counter() - began)

    def _bring(
        self, expert: int, slot: HotSlot, warm: Slot | None, fence: Any, buffers: Buffers
    ) -> None:
        began, medium = perf_counter(), Medium.DRAM
        stored = self._stored[expert]
        slot.content = None
        source = self._landing(stored, slot, buffers) if warm is None else warm.memory
        if warm is None or warm.content != expert:
            if warm is not None:
                warm.content = None
            medium = self._reader.read(stored.pieces, source, buffers.scratch)
            if warm is not None:
                warm.content = expert
        if fence is not None:
            fence.synchronize()
        if source is not slot.memory:
            self._fill(expert, source, slot)
        slot.content = expert
        self.tally.add(medium, stored.layout.num_bytes, perf_counter() - began)

    def _landing(self, stored: Stored, slot: HotSlot, buffers: Buffers) -> Any:
        """Where a record without a warm slot is read to: the slot itself, if it can be."""
        fits = stored.layout.is_verbatim and slot.is_ours
        fits = fits and self._reader.room(stored.pieces) <= len(slot.memory)
        return slot.memory if fits else buffers.record

    def _fill(self, expert: int, source: memoryview, slot: HotSlot) -> None:
        layout = self._stored[expert].layout
        if layout.is_verbatim:
            with source[: layout.num_bytes] as record:
                self._copier.copy(record, slot.memory[: layout.num_bytes])
        else:
            layout.convert(source, slot.weights(layout))
