"""Which expert lies in which slot of a bounded pool: calls in, decisions out, no bytes touched.

The pool is one for all layers. What a call decides depends on the calls before it alone, never on
when bytes arrived: an expert on its way counts as there. Weights are immutable, so what leaves is
forgotten and copied nowhere (SPEC-022, SPEC-026).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from lite_llm.contracts.errors import Internal, OverBudget
from lite_llm.experts.compiled_pool import CompiledPool
from lite_llm.experts.events import EventLog, Happening
from lite_llm.experts.policies import LRU, Ints, Policy
from lite_llm.experts.pool import Counts, Entry, Pool

K = TypeVar("K", bound=Hashable)


class PlaceLost(Internal):
    """A slot was used after its expert was evicted, or its load had failed."""


@dataclass(frozen=True, slots=True)
class Place(Generic[K]):
    """An expert's slot, as long as nothing else was put there."""

    key: K
    slot: int
    generation: int
    """Of the slot: how often it was given away."""


@dataclass(frozen=True, slots=True)
class Load(Generic[K]):
    """Bring the expert's bytes to its place."""

    place: Place[K]
    victim: K | None = None
    """What lies there until then; if it is still on its way, that has to end first."""


@dataclass(frozen=True, slots=True)
class Decision(Generic[K]):
    """What to do for one demand. Hits and loads are pinned until the decision is released."""

    hits: tuple[Place[K], ...]
    """In the pool, or on their way there (:meth:`SlotTable.is_ready`)."""
    loads: tuple[Load[K], ...]
    bypassed: tuple[K, ...]
    """No slot may be had for them: to be run from a transient place, one after the other."""


class SlotTable(Generic[K]):
    """For one thread. ``K`` names experts: ExpertKey where a model is served."""

    def __init__(
        self,
        layers: Mapping[int, Sequence[K]],
        num_slots: int,
        policy: Policy = LRU,
        *,
        seed: int = 0,
        log: EventLog | None = None,
        pool: type[Pool] = CompiledPool,
    ) -> None:
        """``layers``: experts of each layer that has any, in the order of their keys."""
        numbers = sorted(layers)
        self._layer = {number: index for index, number in enumerate(numbers)}
        self._keys = [key for number in numbers for key in layers[number]]
        self._number = {key: number for number, key in enumerate(self._keys)}
        self._pool = pool([len(layers[number]) for number in numbers], num_slots, policy, seed)
        self._log = log
        self._place_N: list[Place[K] | None] = [None] * len(self._keys)
        self._generation_S = [0] * num_slots
        self._is_ready_S = [False] * num_slots
        self._held: set[int] = set()  # never iterated but sorted

    @property
    def num_slots(self) -> int:
        return len(self._generation_S)

    @property
    def num_used(self) -> int:
        """Slots that an expert lies in, or is on its way to."""
        return self.num_slots - len(self._pool.free)

    @property
    def num_pinned(self) -> int:
        """Slots that nothing may replace now."""
        return int(np.count_nonzero(self._pool.pins_S))

    @property
    def counts(self) -> Counts:
        """What happened so far."""
        return self._pool.counts

    def resident_N(self) -> list[bool]:
        """Of each expert, whether it is there, or on its way; for any thread, at some moment."""
        found: list[bool] = (self._pool.slot_N >= 0).tolist()
        return found

    @property
    def uses_N(self) -> Ints:
        """How often each expert was demanded."""
        return self._pool.history.uses_N

    def demand(self, layer: int, decode: Sequence[K], prefill: Sequence[K] = ()) -> Decision[K]:
        """A layer needs these experts now; ``prefill``: those that only rows of prompts chose.

        Both ascend and share no expert. Prompts take free slots and what prompts brought, and
        replace nothing that decoding used in its last steps. Where one step demands more than the
        pool holds, what the last step used stays, and the rest is bypassed.
        """
        pool, index = self._pool, self._layer[layer]
        decode_D, prefill_P = self._numbers(index, decode), self._numbers(index, prefill)
        promoted = decode_D if self._log is None else decode_D[pool.is_prompts_N[decode_D]]
        outcome = pool.demand(index, decode_D, prefill_P)
        pool.pins_S[pool.slot_N[outcome.hits]] += 1
        hits = self._placed(outcome.hits)
        self._note_all(Happening.HIT, outcome.hits)
        self._note_all(Happening.PROMOTE, promoted)
        if len(hits) == len(decode) + len(prefill):
            return Decision(hits, (), ())
        loads: list[Load[K]] = []
        for entry in (outcome.decode, outcome.prefill):
            loads += self._loads(Happening.LOAD, entry)
            pool.pins_S[pool.slot_N[entry.experts_M]] += 1
        self._note_all(Happening.BYPASS, outcome.bypassed)
        bypassed = tuple(self._keys[number] for number in outcome.bypassed.tolist())
        return Decision(hits, tuple(loads), bypassed)

    def touch(self, layer: int, keys: Sequence[int]) -> None:
        """A demand of experts that decode, by their ascending numbers, and that all are there.

        Nothing is pinned: nobody may demand anything else until their kernels have run.
        """
        self._pool.demand(self._layer[layer], np.array(keys, np.int64))

    def release(self, decision: Decision[K]) -> None:
        """Its kernels have run. What failed meanwhile is left out."""
        places = [*decision.hits, *(load.place for load in decision.loads)]
        slots = [place.slot for place in places if self._is_current(place)]
        if not self._pool.pins_S[slots].all():
            raise Internal("a decision is released twice", where="experts")
        self._pool.pins_S[slots] -= 1

    def want(self, key: K, probability: float, *, prefill: bool = False) -> Load[K] | None:
        """Bring an expert before its layer's next demand, which is of it with this probability.

        None if it is there, or if nothing unpinned is worth less than it; ``prefill``: if nothing
        is to be had for prompts.
        """
        number = np.array([self._number[key]], np.int64)
        entry = self._pool.want(number, probability, prefill)
        return next(iter(self._loads(Happening.PREFETCH, entry)), None)

    def likely(self, layer: int, least: float) -> list[tuple[K, float]]:
        """Experts of a layer that are not there, and that its next visit uses with this probability
        at least, as far as the policy has learned it; the most probable first."""
        history = self._pool.history
        if history.odds is None:
            return []
        own = history.slices[self._layer[layer]]
        numbers = np.arange(own.start, own.stop)
        numbers = numbers[self._pool.slot_N[own] < 0]
        odds = history.odds.of(numbers)
        order = np.argsort(-odds, kind="stable")
        return [
            (self._keys[number], float(odds[place]))
            for place, number in zip(order.tolist(), numbers[order].tolist(), strict=True)
            if odds[place] >= least
        ]

    def hold(self, keys: Iterable[K]) -> tuple[Load[K], ...]:
        """Keep these in the pool until they are let go: a pinned tier. Returns what is to load.

        Raises :class:`OverBudget`, and holds none of them, if they don't fit.
        """
        pool = self._pool
        wanted = np.array(sorted({self._number[key] for key in keys} - self._held), np.int64)
        slots = pool.slot_N[wanted]
        fresh = wanted[slots < 0]
        pool.pins_S[slots[slots >= 0]] += 1
        chosen = pool.choose(fresh, prefill=False, is_selective=False, is_forced=True)
        if len(chosen[0]) < len(fresh):
            pool.pins_S[slots[slots >= 0]] -= 1
            raise OverBudget(
                f"{len(wanted)} more experts are to be held in a pool of {self.num_slots}",
                where="experts",
                remedy="hold fewer tiers, or give the pool more memory",
            )
        loads = self._loads(Happening.LOAD, pool.put(*chosen))
        pool.pins_S[pool.slot_N[fresh]] += 1
        self._held.update(wanted.tolist())
        self._note_all(Happening.HOLD, wanted)
        return tuple(loads)

    def let_go(self, keys: Iterable[K]) -> None:
        """They may leave again; what is not held, or failed, stays as it is."""
        leaving = sorted({self._number[key] for key in keys} & self._held)
        self._held.difference_update(leaving)
        numbers = np.array(leaving, np.int64)
        self._pool.pins_S[self._pool.slot_N[numbers]] -= 1
        self._note_all(Happening.LET_GO, numbers)

    def pin(self, place: Place[K]) -> None:
        """One more user. Raises :class:`PlaceLost`."""
        self.check(place)
        self._pool.pins_S[place.slot] += 1

    def unpin(self, place: Place[K]) -> None:
        """One user less. Raises :class:`PlaceLost`."""
        self.check(place)
        users = int(self._pool.pins_S[place.slot]) - (self._number[place.key] in self._held)
        if not users:
            raise Internal(f"expert {place.key} is unpinned once too often", where="experts")
        self._pool.pins_S[place.slot] -= 1

    def check(self, place: Place[K]) -> None:
        """Raise :class:`PlaceLost` if the slot was given to another expert, or its load failed."""
        if not self._is_current(place):
            raise PlaceLost(
                f"expert {place.key} is no longer in slot {place.slot}", where="experts"
            )

    def arrived(self, place: Place[K]) -> bool:
        """Its bytes are there and verified. False if the slot was given away meanwhile."""
        if self._is_current(place):
            self._is_ready_S[place.slot] = True
            return True
        return False

    def is_ready(self, place: Place[K]) -> bool:
        """Whether the bytes have arrived. Raises :class:`PlaceLost`."""
        self.check(place)
        return self._is_ready_S[place.slot]

    def failed(self, place: Place[K]) -> None:
        """Its bytes will not come: the slot is free, whoever pinned it."""
        if self._is_current(place):
            number = self._number[place.key]
            self._note_all(Happening.FAIL, np.array([number]))
            self._generation_S[place.slot] += 1
            self._held.discard(number)
            self._pool.drop(number)

    def evict(self, key: K) -> bool:
        """Give its slot away, unless it is pinned; whether that was done."""
        number = self._number[key]
        slot = int(self._pool.slot_N[number])
        if slot < 0 or self._pool.pins_S[slot]:
            return False
        self._note_all(Happening.EVICT, np.array([number]))
        self._pool.counts.evictions += 1
        self._generation_S[slot] += 1
        self._pool.drop(number)
        return True

    def find(self, key: K) -> Place[K] | None:
        """Where an expert lies, or is on its way to."""
        number = self._number[key]
        return None if self._pool.slot_N[number] < 0 else self._place_N[number]

    def _numbers(self, index: int, keys: Sequence[K]) -> Ints:
        numbers = [self._number[key] for key in keys]
        own = self._pool.history.slices[index]
        before = own.start - 1
        for number in numbers:
            if not before < number < own.stop:
                raise Internal(
                    f"{[str(key) for key in keys]} are not ascending experts of their layer",
                    where="experts",
                )
            before = number
        return np.array(numbers, np.int64)

    def _is_current(self, place: Place[K]) -> bool:
        return self._generation_S[place.slot] == place.generation

    def _placed(self, numbers: Ints) -> tuple[Place[K], ...]:
        places = [self._place_N[number] for number in numbers.tolist()]
        return tuple(place for place in places if place is not None)

    def _loads(self, happening: Happening, entry: Entry) -> list[Load[K]]:
        loads = []
        for number, victim in zip(entry.experts_M.tolist(), entry.victims_M.tolist(), strict=True):
            slot = int(self._pool.slot_N[number])
            self._generation_S[slot] += 1
            self._is_ready_S[slot] = False
            if self._log is not None:
                tick = self._pool.history.tick
                if victim >= 0:
                    self._log.add(tick, Happening.EVICT, self._keys[victim], slot)
                self._log.add(tick, happening, self._keys[number], slot)
            place = Place(self._keys[number], slot, self._generation_S[slot])
            self._place_N[number] = place
            loads.append(Load(place, None if victim < 0 else self._keys[victim]))
        return loads

    def _note_all(self, happening: Happening, numbers: Ints) -> None:
        if self._log is not None:
            slots = self._pool.slot_N[numbers].tolist()
            for number, slot in zip(numbers.tolist(), slots, strict=True):
                self._log.add(self._pool.history.tick, happening, self._keys[number], slot)
