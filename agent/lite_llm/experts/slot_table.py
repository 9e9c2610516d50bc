"""Which expert lies in which slot of a bounded pool: calls in, decisions out, no bytes touched.

The pool is one for all layers. What a call decides depends on the calls before it alone, never on
when bytes arrived: an expert on its way counts as there. Weights are immutable, so what leaves is
forgotten and copied nowhere (SPEC-022, SPEC-026). Experts are numbers, counted through all layers
in the order of their keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lite_llm.contracts.errors import Internal, OverBudget
from lite_llm.experts.events import EventLog, Happening
from lite_llm.experts.policies import LRU, Ints, Policy
from lite_llm.experts.pool import Counts, Entry, Pool


class PlaceLost(Internal):
    """A slot was used after its expert was evicted, or its load had failed."""


@dataclass(frozen=True, slots=True)
class Place:
    """An expert's slot, as long as nothing else was put there."""

    expert: int
    slot: int
    generation: int
    """Of the slot: how often it was given away."""


@dataclass(frozen=True, slots=True)
class Load:
    """Bring the expert's bytes to its place."""

    place: Place
    victim: int | None = None
    """What lies there until then; if it is still on its way, that has to end first."""


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What to do for one demand. Hits and loads are pinned until the decision is released."""

    hits: Ints
    """Ascending; in the pool, or on their way there (:meth:`SlotTable.is_ready`)."""
    loads: tuple[Load, ...]
    bypassed: Ints
    """No slot may be had for them: to be run from a transient place, one after the other."""
    slots: Ints
    """Of the hits, then of the loads."""
    generations: Ints
    """Of the slots."""


class SlotTable:
    """For one thread."""

    def __init__(
        self,
        experts_of_layer: Mapping[int, int],
        num_slots: int,
        policy: Policy = LRU,
        *,
        seed: int = 0,
        log: EventLog | None = None,
    ) -> None:
        """``experts_of_layer``: how many each layer has, of the layers that have any."""
        self._layer = {layer: index for index, layer in enumerate(sorted(experts_of_layer))}
        counts = [experts_of_layer[layer] for layer in self._layer]
        self._pool = Pool(counts, num_slots, policy, seed)
        self._log = log
        self._generation_S: Ints = np.zeros(num_slots, np.int64)
        self._is_ready_S = np.zeros(num_slots, np.bool_)
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

    def demand(self, layer: int, decode: Sequence[int], prefill: Sequence[int] = ()) -> Decision:
        """A layer needs these experts now; ``prefill``: those that only rows of prompts chose.

        Both ascend and share no expert. Prompts take free slots and what prompts brought, and
        replace nothing that decoding used in its last steps. Where one step demands more than the
        pool holds, what the last step used stays, and the rest is bypassed.
        """
        pool, index = self._pool, self._layer[layer]
        decode_D, prefill_P = self._checked(index, decode), self._checked(index, prefill)
        is_promoted = pool.is_prompts_N[decode_D]
        outcome = pool.demand(index, decode_D, prefill_P)
        hits, loads = outcome.hits, []
        slots = pool.slot_N[hits]
        self._note_all(Happening.HIT, hits)
        if is_promoted.any():
            self._note_all(Happening.PROMOTE, decode_D[is_promoted])
        if len(hits) < len(decode_D) + len(prefill_P):
            for entry in (outcome.decode, outcome.prefill):
                loads += self._loads(Happening.LOAD, entry)
                slots = np.concatenate((slots, pool.slot_N[entry.experts_M]))
            self._note_all(Happening.BYPASS, outcome.bypassed)
        pool.pins_S[slots] += 1
        return Decision(hits, tuple(loads), outcome.bypassed, slots, self._generation_S[slots])

    def release(self, decision: Decision) -> None:
        """Its kernels have run. What failed meanwhile is left out."""
        slots = decision.slots[self._generation_S[decision.slots] == decision.generations]
        if not self._pool.pins_S[slots].all():
            raise Internal("a decision is released twice", where="experts")
        self._pool.pins_S[slots] -= 1

    def want(self, expert: int, probability: float, *, prefill: bool = False) -> Load | None:
        """Bring an expert before its layer's next demand, which is of it with this probability.

        None if it is there, or if nothing unpinned is worth less than it; ``prefill``: if nothing
        is to be had for prompts.
        """
        if self._pool.slot_N[expert] >= 0:
            return None
        entry = self._pool.want(expert, probability, prefill)
        return next(iter(self._loads(Happening.PREFETCH, entry)), None)

    def hold(self, experts: Iterable[int]) -> tuple[Load, ...]:
        """Keep these in the pool until they are let go: a pinned tier. Returns what is to load.

        Raises :class:`OverBudget`, and holds none of them, if they don't fit.
        """
        pool = self._pool
        wanted = np.array(sorted(set(experts) - self._held), np.int64)
        slots = pool.slot_N[wanted]
        fresh = wanted[slots < 0]
        pool.pins_S[slots[slots >= 0]] += 1
        victims = pool.victims(fresh, prefill=False, is_selective=False)
        if len(pool.free) + len(victims) < len(fresh):
            pool.pins_S[slots[slots >= 0]] -= 1
            raise OverBudget(
                f"{len(wanted)} more experts are to be held in a pool of {self.num_slots}",
                where="experts",
                remedy="hold fewer tiers, or give the pool more memory",
            )
        loads = self._loads(Happening.LOAD, pool.put(fresh, victims))
        pool.pins_S[pool.slot_N[fresh]] += 1
        self._held.update(wanted.tolist())
        self._note_all(Happening.HOLD, wanted)
        return tuple(loads)

    def let_go(self, experts: Iterable[int]) -> None:
        """They may leave again; what is not held, or failed, stays as it is."""
        leaving = sorted(set(experts) & self._held)
        self._held.difference_update(leaving)
        numbers = np.array(leaving, np.int64)
        self._pool.pins_S[self._pool.slot_N[numbers]] -= 1
        self._note_all(Happening.LET_GO, numbers)

    def pin(self, place: Place) -> None:
        """One more user. Raises :class:`PlaceLost`."""
        self.check(place)
        self._pool.pins_S[place.slot] += 1

    def unpin(self, place: Place) -> None:
        """One user less. Raises :class:`PlaceLost`."""
        self.check(place)
        users = int(self._pool.pins_S[place.slot]) - (place.expert in self._held)
        if not users:
            raise Internal(f"expert {place.expert} is unpinned once too often", where="experts")
        self._pool.pins_S[place.slot] -= 1

    def check(self, place: Place) -> None:
        """Raise :class:`PlaceLost` if the slot was given to another expert, or its load failed."""
        if not self._is_current(place):
            raise PlaceLost(
                f"expert {place.expert} is no longer in slot {place.slot}", where="experts"
            )

    def arrived(self, place: Place) -> bool:
        """Its bytes are there and verified. False if the slot was given away meanwhile."""
        if self._is_current(place):
            self._is_ready_S[place.slot] = True
            return True
        return False

    def is_ready(self, slots: Ints) -> bool:
        """Whether the bytes of all these slots have arrived."""
        return bool(self._is_ready_S[slots].all())

    def failed(self, place: Place) -> None:
        """Its bytes will not come: the slot is free, whoever pinned it."""
        if self._is_current(place):
            self._note_all(Happening.FAIL, np.array([place.expert]))
            self._generation_S[place.slot] += 1
            self._held.discard(place.expert)
            self._pool.drop(place.expert)

    def find(self, expert: int) -> Place | None:
        """Where an expert lies, or is on its way to."""
        slot = int(self._pool.slot_N[expert])
        return None if slot < 0 else Place(expert, slot, int(self._generation_S[slot]))

    def _checked(self, index: int, experts: Sequence[int]) -> Ints:
        numbers: Ints = np.asarray(experts, np.int64)
        own = self._pool.history.slices[index]
        if len(numbers) and not (
            own.start <= numbers[0]
            and numbers[-1] < own.stop
            and (numbers[1:] > numbers[:-1]).all()
        ):
            raise Internal(
                f"{numbers.tolist()} are not ascending experts of {own.start} to {own.stop - 1}",
                where="experts",
            )
        return numbers

    def _is_current(self, place: Place) -> bool:
        return int(self._generation_S[place.slot]) == place.generation

    def _loads(self, happening: Happening, entry: Entry) -> list[Load]:
        loads = []
        for expert, victim in zip(entry.experts_M.tolist(), entry.victims_M.tolist(), strict=True):
            slot = int(self._pool.slot_N[expert])
            self._generation_S[slot] += 1
            self._is_ready_S[slot] = False
            if self._log is not None:
                if victim >= 0:
                    self._log.add(self._pool.history.tick, Happening.EVICT, victim, slot)
                self._log.add(self._pool.history.tick, happening, expert, slot)
            place = Place(expert, slot, int(self._generation_S[slot]))
            loads.append(Load(place, None if victim < 0 else victim))
        return loads

    def _note_all(self, happening: Happening, experts: Ints) -> None:
        if self._log is not None:
            slots = self._pool.slot_N[experts].tolist()
            for expert, slot in zip(experts.tolist(), slots, strict=True):
                self._log.add(self._pool.history.tick, happening, expert, slot)
