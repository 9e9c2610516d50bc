"""A model's experts in a bounded pool of hot slots, which are filled as the routers ask.

A slot table decides, in the thread that computes and from what was asked alone; this half makes it
so: what is there runs while the rest is on its way, and a step waits only for what it needs.

Legend: N experts of all layers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

import torch

from lite_llm.contracts.errors import LiteLLMError, OverBudget
from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.manifest import ExpertRecord
from lite_llm.contracts.tiers import Medium
from lite_llm.experts.bank import ExpertWeights, NotThere, Wave
from lite_llm.experts.events import EventLog
from lite_llm.experts.fetching import Fetcher, Stored, work_room
from lite_llm.experts.packing import Packing
from lite_llm.experts.record_layout import RecordLayout, layout_of
from lite_llm.experts.settings import ExpertSettings
from lite_llm.experts.slot_table import Load, SlotTable
from lite_llm.experts.slots import HotSlot, hot_memory
from lite_llm.experts.step_rows import StepRows
from lite_llm.experts.tracing import Tracing
from lite_llm.tiers import RecordReader

PASSAGE: Final = 2
"""Hot slots for experts that the table keeps no place for: one runs while the next one comes."""

HELD_URGENCY: Final = 1e6
"""Of what is fetched to stay: after all that is expected soon."""

LIKELY: Final = 0.5
"""Probability from which an expert is fetched for what the tokens before have used."""

FORGETTING_VISITS: Final = 4
"""Steps without a miss after which nothing is fetched early any more."""

Waves = Generator[Wave, None, None]
_CPU: Final = torch.device("cpu")


class ExpertCache:
    """For one thread, as the decoder that uses it is. Close it when no step is running."""

    def __init__(
        self,
        layers: Mapping[int, Sequence[ExpertRecord]],
        dtype: torch.dtype,
        reader: RecordReader,
        settings: ExpertSettings,
        device: torch.device = _CPU,
    ) -> None:
        """``layers``: the experts of each layer that has any; ``device``: where they run.

        Raises :class:`InvalidSettings` for budgets that hold too few of them.
        """
        self.rows = StepRows()
        self._behind = reader.medium
        self.settings = settings
        self.tracing: Tracing | None = None
        self.log = EventLog() if settings.log else None
        """What became of every expert, in order."""
        ordered = {
            layer: sorted(records, key=lambda record: record.router_row)
            for layer, records in sorted(layers.items())
        }
        self.keys = [record.key for records in ordered.values() for record in records]
        """Of each expert, by its number: through all layers, and in these by the router's rows."""
        every: dict[int, range] = {}
        self.numbers: dict[int, range] = {}
        """Of each layer's experts, by their rows of the router."""
        self._stored: list[Stored] = []
        self._visits_since_miss = 0
        self._settled: list[ExpertWeights | None] = [None] * len(self.keys)
        """Of experts that are in their slots for certain, what products need."""
        self._running: Sequence[int] = ()
        """Of a wave that is out, experts that no decision pins."""
        known: dict[RecordLayout, RecordLayout] = {}
        for layer, records in ordered.items():
            first = len(self._stored)
            every[layer] = self.numbers[layer] = range(first, first + len(records))
            for record in records:
                layout, pieces = layout_of(record, dtype)
                self._stored.append(Stored(known.setdefault(layout, layout), pieces))
        on_device = device.type == "cuda"
        if not (on_device if settings.apart is None else settings.apart):
            settings = _as_one(settings, self._stored, reader)
        with ExitStack() as held:
            memory = hot_memory(
                settings.hot_bytes,
                max(layout.num_bytes for layout in known),
                least_slots=PASSAGE + 1,
                on_device=on_device,
            )
            held.callback(memory.close)
            self.arena = memory.arena
            self.slot_bytes = memory.slot_bytes
            num_slots = memory.num_slots - PASSAGE
            self.table: SlotTable[int] = SlotTable(
                every, num_slots, settings.policy, seed=settings.seed, log=self.log
            )
            self.slots = [HotSlot(memory.slots(number)) for number in range(memory.num_slots)]
            held.callback(self.slots.clear)
            self._passage = self.slots[num_slots:]
            held.callback(self._passage.clear)
            held.callback(self._settled.clear)
            self.fetcher = Fetcher(self._stored, every, memory.copier, reader, settings)
            held.callback(self.fetcher.close)
            if settings.trace is not None:
                counts = {layer: len(records) for layer, records in layers.items()}
                self.tracing = Tracing(counts, self.rows)
                held.callback(self.tracing.write, settings.trace)
            self._closing = held.pop_all()

    def close(self) -> None:
        """Wait for what is on its way, and give the memory back.

        Raises :class:`StillLeased` while somebody holds weights of an expert.
        """
        self._closing.close()

    def hold(self, tiers: Collection[int]) -> bool:
        """Bring the experts of these tiers, while nothing more urgent waits, and keep them.

        False, and none is kept, if they don't fit.
        """
        wanted = [number for number, key in enumerate(self.keys) if key.tier in tiers]
        try:
            loads = self.table.hold(wanted)
        except OverBudget:
            return False
        for load in loads:
            self.fetcher.start(load.place.key, self._slot_of(load), HELD_URGENCY)
        return True

    def bank(self, layer: int) -> TieredBank:
        """One layer's experts."""
        return TieredBank(self, layer, self.numbers[layer])

    def bring(self, layer: int, experts: Sequence[int], prompts: Collection[int]) -> Waves:
        """Waves of a layer's experts (see :class:`Bank`); ``prompts``: that no row decodes with."""
        self._visits_since_miss += 1
        if self.log is None and not prompts:
            settled = [self._settled[expert] for expert in experts]
            if None not in settled:
                self.table.touch(layer, experts)
                self._running = experts
                try:
                    yield Wave(settled)  # type: ignore[arg-type]  # mypy knows no such test of a list
                finally:
                    self._running = ()
                return
        decision = self.table.demand(
            layer,
            [expert for expert in experts if expert not in prompts],
            [expert for expert in experts if expert in prompts],
        )
        slots = {place.key: self.slots[place.slot] for place in decision.hits}
        slots |= {load.place.key: self._slot_of(load) for load in decision.loads}
        if decision.loads or decision.bypassed:
            self._visits_since_miss = 0
        try:
            if len(slots) == len(experts) and all(
                slot.holds(expert) for expert, slot in slots.items()
            ):
                yield Wave([self._settle(expert, slots[expert]) for expert in experts])
                _used(slots.values())
                return
            number = {expert: place for place, expert in enumerate(experts)}
            errors: dict[int, LiteLLMError] = {}
            for ready, lost in self._arrivals(layer, slots, decision.bypassed, prompts):
                for expert, error in lost.items():
                    errors[number[expert]] = error
                    if (place := self.table.find(expert)) is not None:
                        self.table.failed(place)
                        self._settled[expert] = None
                ready.sort(key=number.__getitem__)
                weights = [self._settle(expert, slots[expert]) for expert in ready]
                yield Wave(weights, [number[expert] for expert in ready])
                _used(slots[expert] for expert in ready)
            if errors:
                raise NotThere(errors)
        finally:
            self.table.release(decision)

    def _arrivals(
        self,
        layer: int,
        slots: dict[int, HotSlot],
        bypassed: Iterable[int],
        prompts: Collection[int],
    ) -> Generator[tuple[list[int], dict[int, LiteLLMError]], None, None]:
        """Which experts have come, and which can't; first those that are there, maybe none.

        Those in ``bypassed`` get a slot when there is one: theirs may be the next one's as soon as
        more is asked for.
        """
        ready = [expert for expert, slot in slots.items() if slot.holds(expert)]
        coming = {expert: job for expert, slot in slots.items() if (job := slot.arriving(expert))}
        for job in coming.values():
            self.fetcher.hurry(job)
        absent = sorted(slots.keys() - coming.keys() - set(ready))
        passing, free = deque(bypassed), deque(self._passage)
        warm = self.fetcher.demand(layer, [*absent, *passing], prompts)
        try:
            begun = self.fetcher.start_all({expert: slots[expert] for expert in absent})
            coming |= begun
            ready += [expert for expert in absent if expert not in begun]
            lost: dict[int, LiteLLMError] = {}
            while True:
                while passing and free:
                    expert = passing.popleft()
                    slots[expert] = free.popleft()
                    begun = self.fetcher.start_all({expert: slots[expert]})
                    coming |= begun
                    ready += [expert] * (expert not in begun)
                yield ready, lost
                gone = (slots[expert] for expert in (*ready, *lost))
                free.extend(slot for slot in gone if slot in self._passage)
                if not coming and not passing:
                    return
                ready, lost = [], {}
                if coming:
                    next(iter(coming.values())).wait()
                for expert in [expert for expert, job in coming.items() if job.is_over]:
                    error = coming.pop(expert).error
                    if error is None:
                        ready.append(expert)
                    else:
                        lost[expert] = error
        finally:
            self.fetcher.release(warm)

    def expect(self, layer: int, rows: Iterable[int], probability: float, distance: int) -> None:
        """Fetch what a layer, so many layers from now, will probably ask for: ``rows`` of its
        router, each with this probability."""
        for row in rows:
            self._wish(self.numbers[layer][row], probability, distance)

    def expect_likely(self, layer: int, distance: int) -> None:
        """Fetch what a layer, so many layers from now, is likely to ask for after what the tokens
        before have asked for; the most probable first."""
        for expert, probability in self.table.likely(layer, LIKELY):
            self._wish(expert, probability, distance)

    def _wish(self, expert: int, probability: float, distance: int) -> None:
        if self.tracing is not None:
            self.tracing.wish(expert, probability)
        load = self.table.want(expert, probability)
        if load is not None:
            # Sooner the more it is probable and large, and the nearer its layer.
            share = self._stored[expert].layout.num_bytes / self.slot_bytes
            urgency = distance / max(probability * share, 1e-3)
            self.fetcher.expect(expert, self._slot_of(load), probability, urgency)

    def evict(self, expert: int) -> None:
        """Let its slot go now, if no step uses it: to make room, or to see that no bit moves."""
        if expert not in self._running and self.table.evict(expert):
            self._settled[expert] = None

    def where(self) -> list[tuple[int, int, bytes]]:
        """Layer, tier and, of its experts in order, a :class:`Medium` each: the nearest copy.

        Any thread may ask. What is on its way counts as there.
        """
        hot, warm = self.table.resident_N(), self.fetcher.table.resident_N()
        found: dict[tuple[int, int], list[tuple[ExpertKey, int]]] = {}
        for number, key in enumerate(self.keys):
            medium = self._behind
            if hot[number]:
                medium = Medium.GPU
            elif warm[number]:
                medium = Medium.DRAM
            found.setdefault((key.layer, key.tier), []).append((key, medium))
        return [
            (layer, tier, bytes(medium for _, medium in sorted(experts)))
            for (layer, tier), experts in sorted(found.items())
        ]

    @property
    def has_missed_lately(self) -> bool:
        """Whether there is anything to gain by fetching early: at the last visits experts lacked.

        As counts alone say it, this is the same in every run.
        """
        return self._visits_since_miss <= FORGETTING_VISITS * len(self.numbers)

    def _slot_of(self, load: Load[int]) -> HotSlot:
        """Where it goes; who was there is not, from now on."""
        if load.victim is not None:
            self._settled[load.victim] = None
        return self.slots[load.place.slot]

    def _settle(self, expert: int, slot: HotSlot) -> ExpertWeights:
        """Of an expert that the slot holds, and keeps if it is the table's."""
        weights = self.weights(expert, slot)
        if slot.is_ours and slot not in self._passage:
            self._settled[expert] = weights
        return weights

    def weights(self, expert: int, slot: HotSlot) -> ExpertWeights:
        """Of an expert that the slot holds."""
        return slot.weights(self._stored[expert].layout)


class TieredBank:
    """One layer's experts, of which a few are in hot slots at a time (see :class:`Bank`)."""

    def __init__(self, cache: ExpertCache, layer: int, numbers: Sequence[int]) -> None:
        """``numbers``: of the experts, by their rows of the router."""
        self._cache = cache
        self._layer = layer
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def bring(self, packing: Packing) -> Waves:
        """Waves, as slots allow."""
        experts = [self.numbers[row] for row in packing.experts]
        only = self._cache.rows.only_prompts(packing)
        prompts = () if only is None else {experts[place] for place in only.nonzero()[0]}
        return self._cache.bring(self._layer, experts, prompts)


def _as_one(
    settings: ExpertSettings, stored: Sequence[Stored], reader: RecordReader
) -> ExpertSettings:
    """The same budget with all of it hot, but for what the fetching threads work in."""
    record_bytes, each = work_room(stored, reader)
    rest = settings.warm_bytes // (record_bytes * each) * record_bytes * each
    work_bytes = min(rest, settings.readers * record_bytes * each)
    together = settings.hot_bytes + settings.warm_bytes - work_bytes
    return replace(settings, hot_bytes=together, warm_bytes=work_bytes)


def _used(slots: Iterable[HotSlot]) -> None:
    for slot in slots:
        slot.used()
