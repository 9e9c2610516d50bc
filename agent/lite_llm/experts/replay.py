"""What a policy would have done with a recorded trace: hits, misses, bytes and waste.

Policies run through the same pool that serves. Beside them stand what others do (B0 to B5), with
the same slots. Legend: D demands, A accesses (:mod:`lite_llm.experts.traces`), L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.experts.belady import optimal_hits
from lite_llm.experts.compiled_pool import CompiledPool
from lite_llm.experts.events import EventLog
from lite_llm.experts.policies import LFU, LRU, POLICIES, Ints, Policy
from lite_llm.experts.slot_table import SlotTable
from lite_llm.experts.traces import Demands, Trace


@dataclass(frozen=True, slots=True)
class Tally:
    """Of one replay, in experts: ``hits + misses`` is how many accesses there were."""

    hits: int
    hits_by_prefetch: int
    misses: int
    """Loaded into a slot, or bypassed."""
    bypasses: int
    """Of the misses, those that got no slot."""
    fetched: int
    """Moved in for misses, prefetches, and whatever else is moved with them."""
    evictions: int
    written_back: int
    """Moved out, though nothing had changed."""
    prefetches: int
    wasted_prefetches: int
    """Evicted before any demand."""

    @property
    def hit_rate(self) -> float:
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else 0.0

    def __add__(self, other: Tally) -> Tally:
        sums = (getattr(self, f.name) + getattr(other, f.name) for f in fields(Tally))
        return Tally(*sums)


@dataclass(frozen=True, slots=True)
class Lookahead:
    """A predictor of what comes, right as often as is said; its errors are seeded."""

    layers: int
    """How many demands ahead it speaks."""
    recall: float = 1.0
    """Of the experts that will be demanded, how many it names; for each other it names another."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is replayed."""

    demands: Demands
    experts_of_layer_L: tuple[int, ...]

    @classmethod
    def of(cls, trace: Trace) -> Workload:
        """Of everything in the trace."""
        return cls(trace.demands, tuple(trace.experts_of_layer.values()))

    @property
    def num_experts(self) -> int:
        return sum(self.experts_of_layer_L)

    def slots(self, share: float) -> int:
        """How many slots a share of all experts is, rounded down."""
        return int(share * self.num_experts)


def replay(
    workload: Workload,
    policy: Policy,
    num_slots: int,
    *,
    seed: int = 0,
    lookahead: Lookahead | None = None,
) -> Tally:
    """Every demand in turn; with a ``lookahead``, what it names is prefetched after each."""
    demands = workload.demands
    pool = CompiledPool(workload.experts_of_layer_L, num_slots, policy, seed)
    layers, starts = demands.layer_D.tolist(), demands.start_D.tolist()
    expert_A, is_prompts_A = demands.expert_A, demands.is_prompts_A
    has_prompts = bool(is_prompts_A.any())
    named = _named(workload, lookahead, seed) if lookahead is not None else []
    for number, layer in enumerate(layers):
        wanted = slice(starts[number], starts[number + 1])
        experts = expert_A[wanted]
        if has_prompts:
            is_prompts = is_prompts_A[wanted]
            pool.demand(layer, experts[~is_prompts], experts[is_prompts])
        else:
            pool.demand(layer, experts)
        if lookahead is not None and number + lookahead.layers < len(named):
            pool.want(named[number + lookahead.layers], lookahead.recall)
    counts = pool.counts
    return Tally(
        hits=counts.hits,
        hits_by_prefetch=counts.hits_by_prefetch,
        misses=counts.loads + counts.bypasses,
        bypasses=counts.bypasses,
        fetched=counts.loads + counts.bypasses + counts.prefetches,
        evictions=counts.evictions,
        written_back=0,
        prefetches=counts.prefetches,
        wasted_prefetches=counts.wasted_prefetches,
    )


def events_of(trace: Trace, policy: Policy, num_slots: int, *, seed: int = 0) -> EventLog:
    """The events that a pool had while the trace was recorded: with that policy, size and seed, the
    same sequence that a serving model logs, but for experts that failed or were held."""
    log, first, layers = EventLog(), 0, dict[int, range]()
    for index, count in enumerate(trace.experts_of_layer.values()):
        layers[index] = range(first, first + count)
        first += count
    table: SlotTable[int] = SlotTable(layers, num_slots, policy, seed=seed, log=log)
    demands, wishes = trace.demands, len(trace.wish_demand_W)
    wish = 0
    for number, layer in enumerate(demands.layer_D.tolist()):
        own = slice(*demands.start_D[number : number + 2])
        experts, is_prompts = demands.expert_A[own], demands.is_prompts_A[own]
        decision = table.demand(layer, experts[~is_prompts].tolist(), experts[is_prompts].tolist())
        while wish < wishes and trace.wish_demand_W[wish] <= number + 1:
            table.want(int(trace.wish_expert_W[wish]), float(trace.wish_odds_W[wish]))
            wish += 1
        table.release(decision)
    return log


def belady(workload: Workload, num_slots: int) -> Tally:
    """The optimum without prefetches (:mod:`lite_llm.experts.belady`)."""
    hits = int(optimal_hits(workload.demands, num_slots).sum())
    return _plain(hits, workload.demands.num_accesses - hits)


def _all_resident(workload: Workload, num_slots: int, seed: int) -> Tally:
    """B0: whatever the slots are, each expert is fetched once."""
    return replay(workload, LRU, workload.num_experts, seed=seed)


def _whole_layers(workload: Workload, num_slots: int, seed: int) -> Tally:
    """B1: the first layers are there from the start, as many as fit; others are copied whole, each
    time."""
    demands = workload.demands
    sizes_L: Ints = np.array(workload.experts_of_layer_L, np.int64)
    is_resident_L = np.cumsum(sizes_L) <= num_slots
    is_resident_D = is_resident_L[demands.layer_D]
    counts_D = np.diff(demands.start_D)
    hits = int(counts_D[is_resident_D].sum())
    fetched = int(sizes_L[demands.layer_D[~is_resident_D]].sum() + sizes_L[is_resident_L].sum())
    return _plain(hits, demands.num_accesses - hits, fetched)


def _lru_of_each_layer(workload: Workload, num_slots: int, seed: int) -> Tally:
    """B2: as many slots for each layer, and what is evicted is written back."""
    num_layers = len(workload.experts_of_layer_L)
    share, rest = divmod(num_slots, num_layers)
    tally = _plain(0, 0)
    for layer in range(num_layers):
        tally += replay(_only(workload, layer), _unguarded(LRU), share + (layer < rest), seed=seed)
    return Tally(**{**_as_dict(tally), "written_back": tally.evictions})


def _lfu(workload: Workload, num_slots: int, seed: int) -> Tally:
    """B3: the fewest uses since it came leaves."""
    return replay(workload, _unguarded(LFU), num_slots, seed=seed)


def _static(workload: Workload, num_slots: int, seed: int) -> Tally:
    """B4: what this very trace uses most is there from the start; all else is computed where it
    lies, and moves nothing."""
    counts_N = np.bincount(workload.demands.expert_A, minlength=workload.num_experts)
    hits = int(np.sort(counts_N)[workload.num_experts - num_slots :].sum())
    return _plain(hits, workload.demands.num_accesses - hits, fetched=num_slots)


def _lru(workload: Workload, num_slots: int, seed: int) -> Tally:
    """B5: one pool for all layers, least recently used, on demand only."""
    return replay(workload, _unguarded(LRU), num_slots, seed=seed)


Contender = Callable[[Workload, int, int], Tally]
"""From a workload, slots and a seed."""

BASELINES: Final[dict[str, Contender]] = {
    "b0-resident": _all_resident,
    "b1-whole-layers": _whole_layers,
    "b2-layer-lru": _lru_of_each_layer,
    "b3-lfu": _lfu,
    "b4-static": _static,
    "b5-lru": _lru,
}


def contenders(names: Sequence[str], lookahead: Lookahead | None = None) -> dict[str, Contender]:
    """Policies, which get the ``lookahead``, and baselines, by name; ``all``: every one of them.

    Raises :class:`InvalidSettings` for a name that nothing has.
    """
    known = {name: _of(policy, lookahead) for name, policy in POLICIES.items()} | BASELINES
    if "all" in names:
        return known
    for name in names:
        if name not in known:
            raise InvalidSettings(
                f"there is no policy {name[:40]!r}",
                where="policy",
                remedy=f"use all, {', '.join(known)}",
            )
    return {name: known[name] for name in names}


def _of(policy: Policy, lookahead: Lookahead | None) -> Contender:
    def contender(workload: Workload, num_slots: int, seed: int) -> Tally:
        return replay(workload, policy, num_slots, seed=seed, lookahead=lookahead)

    return contender


def _unguarded(policy: Policy) -> Policy:
    """As others have it."""
    return replace(policy, is_guarded=False)


def _plain(hits: int, misses: int, fetched: int | None = None) -> Tally:
    return Tally(hits, 0, misses, 0, misses if fetched is None else fetched, 0, 0, 0, 0)


def _as_dict(tally: Tally) -> dict[str, int]:
    return {field.name: getattr(tally, field.name) for field in fields(Tally)}


def _only(workload: Workload, layer: int) -> Workload:
    """One layer's demands alone, with its experts counted from 0."""
    demands = workload.demands
    is_own_D = demands.layer_D == layer
    counts_D = np.diff(demands.start_D)
    is_own_A = np.repeat(is_own_D, counts_D)
    first = sum(workload.experts_of_layer_L[:layer])
    own = Demands(
        layer_D=np.zeros(int(is_own_D.sum()), np.int64),
        start_D=np.concatenate(([0], np.cumsum(counts_D[is_own_D]))),
        expert_A=demands.expert_A[is_own_A] - first,
        is_prompts_A=demands.is_prompts_A[is_own_A],
    )
    return Workload(own, (workload.experts_of_layer_L[layer],))


def _named(workload: Workload, lookahead: Lookahead, seed: int) -> list[Ints]:
    """For each demand the experts that the predictor names for it, each once."""
    demands = workload.demands
    sizes_L: Ints = np.array(workload.experts_of_layer_L, np.int64)
    layer_A = np.repeat(demands.layer_D, np.diff(demands.start_D))
    rng = np.random.default_rng(seed)
    is_right_A = rng.random(demands.num_accesses) < lookahead.recall
    first_L = np.cumsum(sizes_L) - sizes_L
    other_A = first_L[layer_A] + (rng.random(demands.num_accesses) * sizes_L[layer_A]).astype(int)
    named_A = np.where(is_right_A, demands.expert_A, other_A)
    return [np.unique(part) for part in np.split(named_A, demands.start_D[1:-1])]
