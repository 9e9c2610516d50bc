"""Who is in a bounded pool of experts and who leaves, by number: the deciding core of the table.

Legend: N experts of all layers, in the order of their keys; S slots; C candidates to leave;
D demanded for rows that decode, P only for rows of prompts, M missing ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from lite_llm.experts.policies import Floats, History, Ints, Policy

PROTECTED_VISITS: Final = 64
"""Steps after which an expert that decoding no longer uses may make room for a prompt's."""

NONE: Final[Ints] = np.empty(0, np.int64)


class Entry(NamedTuple):
    """Experts that came in, and whom they replaced."""

    experts_M: Ints
    victims_M: Ints
    """-1 where the slot was free."""


NOBODY: Final = Entry(NONE, NONE)


class Outcome(NamedTuple):
    """Of one demand."""

    hits: Ints
    decode: Entry
    prefill: Entry
    bypassed: Ints


@dataclass(slots=True)
class Counts:
    """Experts so far: ``hits + loads + bypasses`` is how many were demanded."""

    hits: int = 0
    hits_by_prefetch: int = 0
    """Of the hits, those that a prefetch had brought for this demand."""
    loads: int = 0
    bypasses: int = 0
    prefetches: int = 0
    wasted_prefetches: int = 0
    """Evicted before any demand."""
    evictions: int = 0


class Pool:
    """Who lies in which slot. The calls before a call decide it, and nothing else."""

    def __init__(
        self, experts_of_layer_L: Sequence[int], num_slots: int, policy: Policy, seed: int = 0
    ) -> None:
        num_experts = sum(experts_of_layer_L)
        # A pool that holds all of them has nothing to learn.
        learns = policy.learns and num_slots < num_experts
        self.history = History(experts_of_layer_L, learns=learns)
        self.policy = policy
        self.slot_N: Ints = np.full(num_experts, -1, np.int64)
        """-1 for those outside."""
        self.expert_S: Ints = np.full(num_slots, -1, np.int64)
        """-1 for free slots."""
        self.pins_S: Ints = np.zeros(num_slots, np.int64)
        self.is_prompts_N: NDArray[np.bool_] = np.zeros(num_experts, np.bool_)
        """A prompt brought it, and decoding has not used it since."""
        self.counts = Counts()
        self._is_unused_N: NDArray[np.bool_] = np.zeros(num_experts, np.bool_)
        """Prefetched, and not demanded since."""
        self.free = list(range(num_slots - 1, -1, -1))
        self._rank_N = _shuffled(num_experts, seed)
        self._demand_L = [0] * len(experts_of_layer_L)

    def demand(self, layer: int, decode_D: Ints, prefill_P: Ints = NONE) -> Outcome:
        """See :meth:`SlotTable.demand`; ``layer`` counts those that have experts."""
        self.history.visit(layer, decode_D, prefill_P)
        both = np.concatenate((decode_D, prefill_P)) if len(prefill_P) else decode_D
        self._demand_L[layer] = len(both)
        is_hit = self.slot_N[both] >= 0
        num_hits = int(np.count_nonzero(is_hit))
        self.is_prompts_N[decode_D] = False
        self.counts.hits += num_hits
        if self.counts.prefetches:
            self.counts.hits_by_prefetch += int(np.count_nonzero(self._is_unused_N[both]))
            self._is_unused_N[both] = False
        if num_hits == len(both):
            return Outcome(both, NOBODY, NOBODY, NONE)
        decode, refused_D = self._admit(decode_D, prefill=False)
        prefill, refused_P = self._admit(prefill_P, prefill=True)
        bypassed = np.concatenate((refused_D, refused_P))
        self.counts.loads += len(decode.experts_M) + len(prefill.experts_M)
        self.counts.bypasses += len(bypassed)
        return Outcome(both[is_hit], decode, prefill, bypassed)

    def want(self, experts: Ints, probability: float, prefill: bool = False) -> Entry:
        """See :meth:`SlotTable.want`; each once, all with the same probability."""
        self.history.expect(experts, probability)
        absent = experts[self.slot_N[experts] < 0]
        newcomers, victims = self.choose(absent, prefill=prefill, is_selective=not prefill)
        entry = self.put(newcomers, victims, prefill)
        self._is_unused_N[entry.experts_M] = True
        self.counts.prefetches += len(entry.experts_M)
        return entry

    def choose(
        self, newcomers: Ints, *, prefill: bool, is_selective: bool, is_forced: bool = False
    ) -> tuple[Ints, Ints]:
        """Who comes in, and who makes room for those that no free slot is left for.

        The least worth leave first. A selective choice takes the worthiest newcomers first, and
        only those worth more than whom they replace. ``is_forced``: whatever is not pinned leaves.
        """
        num_free = len(self.free)
        number = len(newcomers) - num_free
        if number <= 0:
            return newcomers, NONE
        candidates = self._unpinned() if is_forced else self._candidates(prefill)
        worth = self.policy.worth(self.history, np.concatenate((candidates, newcomers)))
        worth, offered = worth[: len(candidates)], worth[len(candidates) :]
        if is_selective:
            order = np.lexsort((self._rank_N[newcomers], -offered))
            newcomers, offered = newcomers[order], offered[order]
        key = np.where(self.is_prompts_N[candidates], -np.inf, worth)
        chosen = self._least(candidates, worth, key, number)
        if is_selective:
            refused = np.flatnonzero(key[chosen] >= offered[num_free : num_free + len(chosen)])
            chosen = chosen[: refused[0]] if len(refused) else chosen
        return newcomers[: num_free + len(chosen)], candidates[chosen]

    def put(self, newcomers: Ints, victims: Ints, prefill: bool = False) -> Entry:
        """Bring them in: into free slots first, then into the victims'."""
        num_free = len(newcomers) - len(victims)
        slots = np.array([self.free.pop() for _ in range(num_free)], np.int64)
        if len(victims):
            slots = np.concatenate((slots, self.slot_N[victims]))
            self.slot_N[victims] = -1
            self.is_prompts_N[victims] = False
            self.counts.evictions += len(victims)
            self.counts.wasted_prefetches += int(self._is_unused_N[victims].sum())
            self._is_unused_N[victims] = False
        self.slot_N[newcomers] = slots
        self.expert_S[slots] = newcomers
        self.is_prompts_N[newcomers] = prefill
        self.history.enter(newcomers)
        return Entry(newcomers, np.concatenate((np.full(num_free, -1, np.int64), victims)))

    def drop(self, expert: int) -> None:
        """Its slot is free, whoever pinned it."""
        slot = int(self.slot_N[expert])
        self.slot_N[expert] = self.expert_S[slot] = -1
        self.pins_S[slot] = 0
        self.is_prompts_N[expert] = self._is_unused_N[expert] = False
        self.free.append(slot)

    def _admit(self, wanted: Ints, prefill: bool) -> tuple[Entry, Ints]:
        """Slots for as many of those outside as may be, and those that remain there."""
        missing_M = wanted[self.slot_N[wanted] < 0]
        if not len(missing_M):
            return NOBODY, NONE
        is_selective = self.policy.is_selective
        newcomers, victims = self.choose(missing_M, prefill=prefill, is_selective=is_selective)
        entry = self.put(newcomers, victims, prefill)
        return entry, missing_M[self.slot_N[missing_M] < 0]

    def _unpinned(self) -> Ints:
        inside: Ints = self.expert_S[(self.pins_S == 0) & (self.expert_S >= 0)]
        return inside

    def _candidates(self, prefill: bool) -> Ints:
        """Whoever may leave for a prompt, or for decoding."""
        history = self.history
        inside = self._unpinned()
        last_use = history.last_use_N[inside]
        may_leave = last_use < history.tick  # what this demand itself uses stays
        num_layers = len(self._demand_L)
        if prefill:
            age = history.tick - history.last_decode_N[inside]
            may_leave &= self.is_prompts_N[inside] | (age > PROTECTED_VISITS * num_layers)
        elif self.policy.is_guarded and sum(self._demand_L) > len(self.expert_S):
            may_leave &= self.is_prompts_N[inside] | (history.tick - last_use > num_layers)
        return inside[may_leave]

    def _least(self, experts: Ints, worth: Floats, key: Floats, number: int) -> Ints:
        """Indices of the ``number`` with the least keys, in order of key, worth and seeded rank."""
        if number < len(key):
            within = np.flatnonzero(key <= np.partition(key, number - 1)[number - 1])
        else:
            within = np.arange(len(key))
        order = np.lexsort((self._rank_N[experts[within]], worth[within], key[within]))
        least: Ints = within[order[:number]]
        return least


def _shuffled(count: int, seed: int) -> Ints:
    """Each number's place in a seeded order, the same on every machine."""
    words = (number.to_bytes(8, "little") for number in range(count))
    hashes = [xxhash.xxh64_intdigest(word, seed=seed & (1 << 64) - 1) for word in words]
    ranks: Ints = np.empty(count, np.int64)
    ranks[np.lexsort((np.arange(count), np.array(hashes, np.uint64)))] = np.arange(count)
    return ranks
