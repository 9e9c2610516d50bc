"""Other engines' ways to run experts that don't fit, over the same slots, copies and disk as ours.

Each gives a layer's experts as :class:`lite_llm.experts.Bank` does; what is warm is decided alike
for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Generator, Iterable

import numpy as np

from lite_llm.experts import ExpertCache, Packing, Wave
from lite_llm.experts.slots import HotSlot

Waves = Generator[Wave, None, None]


class Baseline(ABC):
    """What they share: slots of a cache, whose own table is not asked."""

    def __init__(self, cache: ExpertCache) -> None:
        self.cache = cache
        self.hits = self.misses = 0

    def numbers(self, packing: Packing, layer: int) -> list[int]:
        return [self.cache.numbers[layer][row] for row in packing.experts]

    def copy_now(self, layer: int, expert: int, slot: HotSlot) -> None:
        """One after the other, and the step waits."""
        self.copy_all(layer, {expert: slot})

    def copy_all(self, layer: int, wanted: dict[int, HotSlot]) -> None:
        fetcher = self.cache.fetcher
        decision = fetcher.demand(layer, wanted, ())
        for job in [fetcher.start(expert, slot) for expert, slot in wanted.items()]:
            job.wait()
            assert job.error is None, job.error
        fetcher.release(decision)

    @abstractmethod
    def bring(self, layer: int, packing: Packing) -> Waves:
        """What the packing needs, in hot slots."""


class WholeLayers(Baseline):
    """B1: every layer's experts are copied when its turn comes (accelerate)."""

    def bring(self, layer: int, packing: Packing) -> Waves:
        every, room = self.cache.numbers[layer], len(self.cache.slots)
        wanted = {expert: place for place, expert in enumerate(self.numbers(packing, layer))}
        self.misses += len(wanted)
        for first in range(0, len(every), room):
            slots = dict(zip(every[first : first + room], self.cache.slots, strict=False))
            self.copy_all(layer, slots)
            here = [expert for expert in wanted if expert in slots]
            weights = [self.cache.weights(expert, slots[expert]) for expert in here]
            yield Wave(weights, [wanted[expert] for expert in here])


class LayerLru(Baseline):
    """B2: a few slots a layer, the least recently used one is copied back (mixtral-offloading)."""

    def __init__(self, cache: ExpertCache) -> None:
        super().__init__(cache)
        each = cache.table.num_slots // len(cache.numbers)
        slots = iter(cache.slots)
        self._free = {layer: [next(slots) for _ in range(each)] for layer in cache.numbers}
        self._held: dict[int, OrderedDict[int, HotSlot]] = {
            layer: OrderedDict() for layer in cache.numbers
        }
        self._back = bytearray(len(cache.slots[0].memory))

    def bring(self, layer: int, packing: Packing) -> Waves:
        held, free = self._held[layer], self._free[layer]
        for place, expert in enumerate(self.numbers(packing, layer)):
            if expert in held:
                self.hits += 1
                held.move_to_end(expert)
            else:
                self.misses += 1
                held[expert] = slot = free.pop() if free else self._evicted(held)
                self.copy_now(layer, expert, slot)
            yield Wave([self.cache.weights(expert, held[expert])], [place])

    def _evicted(self, held: OrderedDict[int, HotSlot]) -> HotSlot:
        _, slot = held.popitem(last=False)
        np.copyto(np.frombuffer(self._back, np.uint8), np.frombuffer(slot.memory, np.uint8))
        return slot


class GlobalLfu(Baseline):
    """B3: least often used leaves, synchronous copies, experts one by one (MoE-Infinity)."""

    def __init__(self, cache: ExpertCache) -> None:
        super().__init__(cache)
        self._free = list(cache.slots[: cache.table.num_slots])
        self._held: dict[int, HotSlot] = {}
        self._visits: Counter[int] = Counter()

    def bring(self, layer: int, packing: Packing) -> Waves:
        wanted = self.numbers(packing, layer)
        for place, expert in enumerate(wanted):
            if expert in self._held:
                self.hits += 1
            else:
                self.misses += 1
                self._held[expert] = self._slot(wanted)
                self.copy_now(layer, expert, self._held[expert])
                self._visits[expert] = 0
            self._visits[expert] += 1
            yield Wave([self.cache.weights(expert, self._held[expert])], [place])

    def _slot(self, wanted: Iterable[int]) -> HotSlot:
        if self._free:
            return self._free.pop()
        others = self._held.keys() - set(wanted)
        return self._held.pop(min(others, key=lambda expert: (self._visits[expert], expert)))


class Pinned(Baseline):
    """B4: those most used stay for ever, others pass through (llama.cpp and Fiddler compute them
    where they lie, which on a machine without a device would be our resident case)."""

    def __init__(self, cache: ExpertCache, used: Counter[int]) -> None:
        super().__init__(cache)
        most = [expert for expert, _ in used.most_common(cache.table.num_slots)]
        self._held = dict(zip(most, cache.slots, strict=False))
        layer_of = {e: layer for layer, numbers in cache.numbers.items() for e in numbers}
        for expert, slot in self._held.items():
            self.copy_now(layer_of[expert], expert, slot)

    def bring(self, layer: int, packing: Packing) -> Waves:
        passage = self.cache.slots[-1]
        for place, expert in enumerate(self.numbers(packing, layer)):
            slot = self._held.get(expert)
            self.hits += slot is not None
            if slot is None:
                self.misses += 1
                self.copy_now(layer, expert, slot := passage)
            yield Wave([self.cache.weights(expert, slot)], [place])


class BaselineBank:
    """One layer of it."""

    def __init__(self, baseline: Baseline, layer: int) -> None:
        self._baseline = baseline
        self._layer = layer

    def __len__(self) -> int:
        return len(self._baseline.cache.numbers[self._layer])

    def bring(self, packing: Packing) -> Waves:
        return self._baseline.bring(self._layer, packing)
