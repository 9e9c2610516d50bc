"""The table: never above its slots, nothing pinned evicted, the same calls the same events."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_llm.contracts.errors import Internal, OverBudget
from lite_llm.contracts.identity import ExpertKey
from lite_llm.experts.events import EventLog, Happening
from lite_llm.experts.policies import LRU, POLICIES, Policy
from lite_llm.experts.pool import PROTECTED_VISITS
from lite_llm.experts.slot_table import Decision, Place, PlaceLost, SlotTable

LAYERS, EXPERTS = 3, 6
Call = tuple[str, int, tuple[int, ...], tuple[int, ...], float]

policies = st.sampled_from([*POLICIES.values()])
calls = st.lists(
    st.tuples(
        st.sampled_from(["demand", "demand", "release", "want", "fail", "hold", "let go"]),
        st.integers(0, LAYERS - 1),
        st.sets(st.integers(0, EXPERTS - 1), max_size=4).map(lambda s: tuple(sorted(s))),
        st.sets(st.integers(0, EXPERTS - 1), max_size=4).map(lambda s: tuple(sorted(s))),
        st.floats(0, 1),
    ),
    max_size=20,
)


def key(layer: int, expert: int) -> ExpertKey:
    return ExpertKey(layer, 0, 0, expert)


def table_of(
    num_slots: int, policy: Policy = LRU, *, seed: int = 0, log: EventLog | None = None
) -> SlotTable[ExpertKey]:
    layers = {layer: [key(layer, e) for e in range(EXPERTS)] for layer in range(LAYERS)}
    return SlotTable(layers, num_slots, policy, seed=seed, log=log)


def step(
    table: SlotTable[ExpertKey], layer: int, decode: Sequence[int], prefill: Sequence[int] = ()
) -> Decision[ExpertKey]:
    """Demanded and released."""
    decision = demand(table, layer, decode, prefill)
    table.release(decision)
    return decision


def demand(
    table: SlotTable[ExpertKey], layer: int, decode: Sequence[int], prefill: Sequence[int] = ()
) -> Decision[ExpertKey]:
    return table.demand(layer, [key(layer, e) for e in decode], [key(layer, e) for e in prefill])


def inside(table: SlotTable[ExpertKey]) -> set[ExpertKey]:
    every = (key(layer, e) for layer in range(LAYERS) for e in range(EXPERTS))
    return {one for one in every if table.find(one) is not None}


def places(decision: Decision[ExpertKey]) -> list[Place[ExpertKey]]:
    return [*decision.hits, *(load.place for load in decision.loads)]


class Walk:
    """Carries out calls, and checks after each what must always hold."""

    def __init__(self, num_slots: int, policy: Policy, seed: int = 0) -> None:
        self.log = EventLog()
        self.table = table_of(num_slots, policy, seed=seed, log=self.log)
        self.kept: list[Decision[ExpertKey]] = []
        self.pinned: list[Place[ExpertKey]] = []
        self.held: set[ExpertKey] = set()

    def take(self, call: Call) -> None:
        what, layer, some, others, probability = call
        keys = [key(layer, e) for e in some]
        match what:
            case "demand":
                self.demand(layer, some, [e for e in others if e not in some])
            case "release" if self.kept:
                decision = self.kept.pop(0)
                self.table.release(decision)
                for place in places(decision):
                    if place in self.pinned:  # it has not failed
                        self.pinned.remove(place)
            case "want":
                for one in keys:
                    self.table.want(one, probability, prefill=bool(others))
            case "fail":
                for failed in filter(None, map(self.table.find, keys)):
                    self.table.failed(failed)
                    self.pinned = [place for place in self.pinned if place != failed]
                    self.held.discard(failed.key)
            case "hold":
                try:
                    self.table.hold(keys)
                    self.held |= set(keys)
                except OverBudget:
                    assert len(self.held | set(keys)) > 1
            case "let go":
                self.table.let_go(keys)
                self.held -= set(keys)
        self.check()

    def demand(self, layer: int, decode: Sequence[int], prefill: Sequence[int]) -> None:
        decision = demand(self.table, layer, decode, prefill)
        got = [place.key for place in places(decision)]
        wanted = sorted([*decode, *prefill])
        assert sorted([*got, *decision.bypassed]) == [key(layer, e) for e in wanted]
        self.kept.append(decision)
        self.pinned += places(decision)

    def check(self) -> None:
        table = self.table
        there = inside(table)
        slots = {place.slot for one in there if (place := table.find(one)) is not None}
        assert len(slots) == len(there) == table.num_used <= table.num_slots
        for place in self.pinned:
            assert table.find(place.key) == place
        assert self.held <= there
        counts, told = table.counts, self.log.counts()
        assert counts.hits == told[Happening.HIT]
        assert counts.bypasses == told[Happening.BYPASS]
        assert counts.evictions == told[Happening.EVICT]
        assert counts.prefetches == told[Happening.PREFETCH]
        entered = told[Happening.LOAD] + told[Happening.PREFETCH]
        assert entered == len(there) + told[Happening.EVICT] + told[Happening.FAIL]


@settings(max_examples=40)
@given(calls, st.integers(0, 10), policies)
def test_whatever_is_called(walk: list[Call], num_slots: int, policy: Policy) -> None:
    checked = Walk(num_slots, policy)
    for call in walk:
        checked.take(call)


@settings(max_examples=40)
@given(calls, st.integers(1, 10), policies, st.integers(0, 1 << 64))
def test_the_same_calls_are_the_same_events(
    walk: list[Call], num_slots: int, policy: Policy, seed: int
) -> None:
    digests = set()
    for arrives in (False, True):
        one = Walk(num_slots, policy, seed)
        for call in walk:
            one.take(call)
            for place in one.pinned if arrives else ():
                one.table.arrived(place)
        digests.add(one.log.digest())
    assert len(digests) == 1


def test_the_least_recently_used_makes_room() -> None:
    table = table_of(2)
    step(table, 0, [0])
    step(table, 1, [0])
    step(table, 0, [0])
    [load] = step(table, 1, [1]).loads
    assert load.victim == key(1, 0)
    assert inside(table) == {key(0, 0), key(1, 1)}


def test_the_seed_decides_among_equals() -> None:
    victims = set()
    for seed in range(20):
        table = table_of(4, seed=seed)
        step(table, 0, [0, 1, 2, 3])
        victims.add(step(table, 0, [4]).loads[0].victim)
    assert len(victims) > 1


def test_a_pool_smaller_than_a_step_keeps_what_it_has() -> None:
    table = table_of(3)
    for _ in range(5):
        decisions = [step(table, layer, [0, 1]) for layer in range(LAYERS)]
    assert [len(decision.hits) for decision in decisions] == [2, 1, 0]
    assert [len(decision.bypassed) for decision in decisions] == [0, 1, 2]


def test_a_demand_larger_than_the_pool_is_bypassed_in_part() -> None:
    decision = step(table_of(2), 0, [0, 1, 2, 4])
    assert len(decision.loads) == 2
    assert len(decision.bypassed) == 2


def test_prompts_do_not_flush_what_decoding_uses() -> None:
    table = table_of(6)
    for layer in range(LAYERS):
        step(table, layer, [0, 1])
    used = inside(table)
    for layer in range(LAYERS):
        decision = step(table, layer, [], range(EXPERTS))
        assert len(decision.hits) == 2
        assert len(decision.bypassed) == EXPERTS - 2
    assert inside(table) == used


def test_what_prompts_brought_leaves_first_until_decoding_uses_it() -> None:
    log = EventLog()
    table = table_of(3, log=log)
    step(table, 0, [], [0, 1])
    step(table, 0, [1])
    step(table, 1, [0])
    assert [load.victim for load in step(table, 1, [1]).loads] == [key(0, 0)]
    assert [e.expert for e in log.events if e.happening is Happening.PROMOTE] == [key(0, 1)]


def test_prompts_may_take_what_decoding_has_long_left() -> None:
    table = table_of(2)
    step(table, 0, [0, 1])
    assert step(table, 0, [], [2]).bypassed
    for _ in range(PROTECTED_VISITS):
        for layer in range(LAYERS):
            step(table, layer, [])
    assert step(table, 0, [], [2]).loads


def test_a_prefetch_takes_only_what_is_worth_less() -> None:
    table = table_of(2)
    step(table, 0, [0])
    step(table, 0, [1])
    assert table.want(key(1, 0), 0.0) is None
    load = table.want(key(1, 0), 0.9)
    assert load is not None
    assert load.victim == key(0, 0)
    assert table.want(key(1, 0), 0.9) is None
    assert step(table, 1, [0]).hits
    assert table.counts.hits_by_prefetch == 1


def test_a_prefetch_for_nothing_is_counted() -> None:
    table = table_of(1)
    table.want(key(1, 0), 1.0)
    step(table, 0, [0])
    assert table.counts.wasted_prefetches == 1


def test_held_experts_stay() -> None:
    table = table_of(3)
    assert len(table.hold([key(0, 0), key(0, 1), key(0, 1)])) == 2
    for expert in range(EXPERTS):
        step(table, 1, [expert])
    assert {key(0, 0), key(0, 1)} <= inside(table)
    with pytest.raises(OverBudget, match="pool of 3"):
        table.hold([key(2, 0), key(2, 1)])
    table.let_go([key(0, 0)])
    assert table.num_pinned == 1
    assert len(table.hold([key(2, 0), key(2, 1)])) == 2


def test_a_place_is_lost_with_its_expert() -> None:
    table = table_of(1)
    [load] = step(table, 0, [0]).loads
    place = load.place
    assert not table.is_ready(place)
    assert table.arrived(place)
    assert table.is_ready(place)
    table.pin(place)
    assert step(table, 1, [0]).bypassed
    table.unpin(place)
    step(table, 1, [1])
    step(table, 1, [1])
    step(table, 1, [1])
    assert table.find(key(0, 0)) is None
    assert not table.arrived(place)
    for use in (table.check, table.is_ready, table.pin, table.unpin):
        with pytest.raises(PlaceLost, match=r"0\.0\.0\.0"):
            use(place)


def test_what_is_not_pinned_can_be_thrown_out() -> None:
    table = table_of(1)
    decision = demand(table, 0, [0])
    assert not table.evict(key(0, 0))
    table.release(decision)
    assert table.evict(key(0, 0))
    assert not table.evict(key(0, 0))
    assert (table.num_used, table.counts.evictions) == (0, 1)


def test_a_load_that_failed_leaves_a_free_slot() -> None:
    table = table_of(1)
    decision = demand(table, 0, [0])
    table.failed(decision.loads[0].place)
    assert table.num_used == table.num_pinned == 0
    table.release(decision)
    assert step(table, 0, [0]).loads[0].victim is None


def test_misuse_is_an_error() -> None:
    table = table_of(4)
    with pytest.raises(Internal, match="not ascending"):
        demand(table, 0, [1, 0])
    with pytest.raises(Internal, match="not ascending"):
        table.demand(0, [key(1, 0)])
    decision = step(table, 0, [0])
    with pytest.raises(Internal, match="released twice"):
        table.release(decision)
    with pytest.raises(Internal, match="once too often"):
        table.unpin(decision.loads[0].place)


def test_what_tokens_before_have_used_is_likely() -> None:
    table = table_of(2, POLICIES["nearest"])
    for _ in range(30):
        step(table, 0, [0, 1])
        step(table, 1, [2, 3])
    likely = dict(table.likely(0, 0.5)) | dict(table.likely(1, 0.5))
    used = {key(0, 0), key(0, 1), key(1, 2), key(1, 3)}
    assert likely.keys() == used - inside(table)
    assert all(probability >= 0.5 for probability in likely.values())
    assert table.likely(2, 0.5) == []
    assert table_of(2).likely(0, 0.0) == [], "a policy that learns nothing knows nothing"
