"""Which expert lies in which slot of a bounded pool: calls in, decisions out, no bytes touched.

The pool is one for all layers. What a call decides depends on the calls before it alone, never on
when bytes arrived: an expert on its way counts as there. Weights are immutable, so what leaves is
forgotten and copied nowhere (SPEC-022, SPEC-026).

Legend: N experts of all layers, in the order of their keys; S slots; C candidates to leave.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from lite_llm.contracts.errors import Internal, OverBudget
from lite_llm.experts.events import EventLog, Happening
from lite_llm.experts.policies import LRU, Floats, History, Ints, Policy

PROTECTED_VISITS: Final = 64
"""Steps after which an expert that decoding no longer uses may make room for a prompt's."""

K = TypeVar("K", bound=Hashable)


class PlaceLost(Internal):
    """A slot was used after its expert was evicted."""


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
    ) -> None:
        """``layers``: experts of each layer that has any, in the order of their keys."""
        numbers = sorted(layers)
        self._layer = {number: index for index, number in enumerate(numbers)}
        self._keys = [key for number in numbers for key in layers[number]]
        self._number = {key: number for number, key in enumerate(self._keys)}
        self._history = History([len(layers[number]) for number in numbers])
        self._policy = policy
        self._log = log
        self._rank_N = _shuffled(len(self._keys), seed)
        self._slot_N: Ints = np.full(len(self._keys), -1, np.int64)
        self._is_prompts_N = np.zeros(len(self._keys), np.bool_)
        self._expert_S: Ints = np.full(num_slots, -1, np.int64)
        self._pins_S: Ints = np.zeros(num_slots, np.int64)
        self._generation_S = [0] * num_slots
        self._is_ready_S = [False] * num_slots
        self._free = list(range(num_slots - 1, -1, -1))
        self._demand_L = [0] * len(numbers)
        self._held: set[int] = set()  # never iterated unsorted

    @property
    def num_slots(self) -> int:
        return len(self._expert_S)

    @property
    def num_used(self) -> int:
        """Slots that an expert lies in, or is on its way to."""
        return self.num_slots - len(self._free)

    @property
    def num_pinned(self) -> int:
        """Slots that nothing may replace now."""
        return int(np.count_nonzero(self._pins_S))

    def demand(self, layer: int, decode: Sequence[K], prefill: Sequence[K] = ()) -> Decision[K]:
        """A layer needs these experts now; ``prefill``: those that only rows of prompts chose.

        Both ascend and share no expert. Prompts take free slots and what prompts brought, and
        replace nothing that decoding used in its last steps. Everything that one token demands
        may exceed the pool: then what the last step used stays, and the rest is bypassed.
        """
        decode_D, prefill_P = self._numbers(decode), self._numbers(prefill)
        both = np.concatenate((decode_D, prefill_P))
        index = self._layer[layer]
        if (self._history.layer_N[both] != index).any():
            raise Internal(f"experts demanded by layer {layer} are another's", where="experts")
        self._history.visit(index, decode_D, prefill_P)
        self._demand_L[index] = len(both)
        slots = self._slot_N[both]
        is_hit = slots >= 0
        self._pins_S[slots[is_hit]] += 1
        hits = tuple(self._hit(int(number)) for number in both[is_hit])
        self._promote(decode_D)
        loads: list[Load[K]] = []
        bypassed: list[K] = []
        for wanted, of_prompts in ((decode_D, False), (prefill_P, True)):
            missing = wanted[self._slot_N[wanted] < 0]
            if len(missing):
                self._load(missing, of_prompts, loads, bypassed)
        return Decision(hits, tuple(loads), tuple(bypassed))

    def release(self, decision: Decision[K]) -> None:
        """Its kernels have run. What failed meanwhile is left out."""
        for place in (*decision.hits, *(load.place for load in decision.loads)):
            if self._is_current(place):
                self.unpin(place)

    def want(self, key: K, probability: float, *, prefill: bool = False) -> Load[K] | None:
        """Bring an expert before its layer's next demand, which this probability in 0 to 1 is of.

        None if it is there, or if nothing unpinned is worth less than it; ``prefill``: if nothing
        is to be had for prompts.
        """
        number = self._number[key]
        if self._slot_N[number] >= 0:
            return None
        self._history.expected_N[number] = probability
        newcomers = np.array([number], np.int64)
        victims = self._victims(newcomers, prefill, is_selective=not prefill)
        if not self._free and not len(victims):
            return None
        victim = int(victims[0]) if len(victims) else -1
        return self._put(number, Happening.PREFETCH, victim, prefill)

    def hold(self, keys: Iterable[K]) -> tuple[Load[K], ...]:
        """Keep these in the pool until they are let go: a pinned tier. Returns what is to load.

        Raises :class:`OverBudget`, and holds none of them, if they don't fit.
        """
        numbers = sorted({self._number[key] for key in keys} - self._held)
        fresh = np.array([n for n in numbers if self._slot_N[n] < 0], np.int64)
        inside = [int(self._slot_N[n]) for n in numbers if self._slot_N[n] >= 0]
        self._pins_S[inside] += 1
        victims = self._victims(fresh, prefill=False, is_selective=False)
        if len(self._free) + len(victims) < len(fresh):
            self._pins_S[inside] -= 1
            raise OverBudget(
                f"{len(numbers)} experts are to be held in a pool of {self.num_slots}",
                where="experts",
                remedy="hold fewer tiers, or give the pool more memory",
            )
        leaving = iter(victims.tolist())
        loads = []
        for number in fresh.tolist():
            loads.append(self._put(number, Happening.LOAD, -1 if self._free else next(leaving)))
            self._pins_S[self._slot_N[number]] += 1
        self._held.update(numbers)
        for number in numbers:
            self._note(Happening.HOLD, number)
        return tuple(loads)

    def let_go(self, keys: Iterable[K]) -> None:
        """They may leave again; what is not held, or failed, stays as it is."""
        for number in sorted({self._number[key] for key in keys} & self._held):
            self._held.remove(number)
            self._pins_S[self._slot_N[number]] -= 1
            self._note(Happening.LET_GO, number)

    def pin(self, place: Place[K]) -> None:
        """One more user. Raises :class:`PlaceLost`."""
        self.check(place)
        self._pins_S[place.slot] += 1

    def unpin(self, place: Place[K]) -> None:
        """One user less. Raises :class:`PlaceLost`."""
        self.check(place)
        if not self._pins_S[place.slot]:
            raise Internal(f"expert {place.key} is unpinned once too often", where="experts")
        self._pins_S[place.slot] -= 1

    def check(self, place: Place[K]) -> None:
        """Raise :class:`PlaceLost` if the slot is another expert's by now."""
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
        if not self._is_current(place):
            return
        number = self._number[place.key]
        self._note(Happening.FAIL, number)
        self._slot_N[number] = -1
        self._expert_S[place.slot] = -1
        self._pins_S[place.slot] = 0
        self._held.discard(number)
        self._generation_S[place.slot] += 1
        self._free.append(place.slot)

    def find(self, key: K) -> Place[K] | None:
        """Where an expert lies, or is on its way to."""
        number = self._number[key]
        return None if self._slot_N[number] < 0 else self._place(number)

    def _numbers(self, keys: Sequence[K]) -> Ints:
        numbers: Ints = np.array([self._number[key] for key in keys], np.int64)
        if (numbers[1:] <= numbers[:-1]).any():
            raise Internal("experts are demanded out of order, or twice", where="experts")
        return numbers

    def _is_current(self, place: Place[K]) -> bool:
        return self._generation_S[place.slot] == place.generation

    def _place(self, number: int) -> Place[K]:
        slot = int(self._slot_N[number])
        return Place(self._keys[number], slot, self._generation_S[slot])

    def _hit(self, number: int) -> Place[K]:
        self._note(Happening.HIT, number)
        return self._place(number)

    def _promote(self, decode_D: Ints) -> None:
        for number in decode_D[self._is_prompts_N[decode_D]].tolist():
            self._is_prompts_N[number] = False
            self._note(Happening.PROMOTE, number)

    def _load(self, missing: Ints, prefill: bool, loads: list[Load[K]], bypassed: list[K]) -> None:
        """Give each a slot, the worthiest first, as long as there are any to be had."""
        if len(missing) > len(self._free) and self._policy.is_selective:
            missing = missing[self._order(missing)[::-1]]
        victims = self._victims(missing, prefill, self._policy.is_selective)
        leaving = iter(victims.tolist())
        granted = len(self._free) + len(victims)
        for number in missing[:granted].tolist():
            victim = -1 if self._free else next(leaving)
            load = self._put(number, Happening.LOAD, victim, prefill)
            self._pins_S[load.place.slot] += 1
            loads.append(load)
        for number in np.sort(missing[granted:]).tolist():
            self._note(Happening.BYPASS, number)
            bypassed.append(self._keys[number])

    def _victims(self, newcomers: Ints, prefill: bool, is_selective: bool) -> Ints:
        """Experts that make room for those newcomers that no free slot is left for.

        The least worth comes first; ``newcomers`` descend in worth if the choice is selective.
        """
        number = len(newcomers) - len(self._free)
        history = self._history
        candidates: Ints = self._expert_S[(self._pins_S == 0) & (self._expert_S >= 0)]
        if number <= 0 or not len(candidates):
            return candidates[:0]
        if prefill:
            age = history.tick - history.last_decode_N[candidates]
            is_idle = age > PROTECTED_VISITS * len(self._demand_L)
            candidates = candidates[self._is_prompts_N[candidates] | is_idle]
        elif sum(self._demand_L) > self.num_slots:
            age = history.tick - history.last_use_N[candidates]
            is_idle = age > len(self._demand_L)
            candidates = candidates[self._is_prompts_N[candidates] | is_idle]
        is_prompts = self._is_prompts_N[candidates]
        worth = self._policy.worth(history, np.concatenate((candidates, newcomers)))
        worth, of_newcomers = worth[: len(candidates)], worth[len(candidates) :]
        chosen = self._least(candidates, worth, is_prompts, number)
        if not is_selective:
            return candidates[chosen]
        offered = of_newcomers[len(self._free) :][: len(chosen)]
        earned = is_prompts[chosen] | (worth[chosen] < offered)
        return candidates[chosen[: int(np.logical_and.accumulate(earned).sum())]]

    def _least(
        self, experts: Ints, worth: Floats, goes_first: NDArray[np.bool_], number: int
    ) -> Ints:
        """Indices of the ``number`` that leave first, in that order."""
        if number < len(worth):
            key = np.where(goes_first, -np.inf, worth)
            within = np.flatnonzero(key <= np.partition(key, number - 1)[number - 1])
        else:
            within = np.arange(len(worth))
        order = np.lexsort((self._rank_N[experts[within]], worth[within], ~goes_first[within]))
        chosen: Ints = within[order[:number]]
        return chosen

    def _order(self, experts: Ints) -> Ints:
        order: Ints = np.lexsort(
            (self._rank_N[experts], self._policy.worth(self._history, experts))
        )
        return order

    def _put(
        self, number: int, happening: Happening, victim: int, prefill: bool = False
    ) -> Load[K]:
        """Into the slot of ``victim``, or into a free one if that is -1."""
        if victim < 0:
            slot = self._free.pop()
        else:
            slot = int(self._slot_N[victim])
            self._note(Happening.EVICT, victim)
            self._slot_N[victim] = -1
            self._is_prompts_N[victim] = False
        self._expert_S[slot] = number
        self._slot_N[number] = slot
        self._generation_S[slot] += 1
        self._is_ready_S[slot] = False
        self._is_prompts_N[number] = prefill
        self._history.enter(number)
        self._note(happening, number)
        return Load(self._place(number), None if victim < 0 else self._keys[victim])

    def _note(self, happening: Happening, number: int) -> None:
        if self._log is not None:
            slot = int(self._slot_N[number])
            self._log.add(self._history.tick, happening, self._keys[number], slot)


def _shuffled(count: int, seed: int) -> Ints:
    """Each number's place in a seeded order, the same on every machine."""
    words = (number.to_bytes(8, "little") for number in range(count))
    hashes = [xxhash.xxh64_intdigest(word, seed=seed & (1 << 64) - 1) for word in words]
    ranks: Ints = np.empty(count, np.int64)
    ranks[np.lexsort((np.arange(count), np.array(hashes, np.uint64)))] = np.arange(count)
    return ranks
