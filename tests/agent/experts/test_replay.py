"""Replays: nobody beats the optimum, all counts add up, and the table counts the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.experts.policies import DEFAULT, LRU, POLICIES, policy_named
from lite_llm.experts.replay import BASELINES, Lookahead, Workload, belady, contenders, replay
from lite_llm.experts.slot_table import SlotTable
from lite_llm.experts.traces_synthetic import Statistics, synthetic_trace

STATISTICS = Statistics(layers=3, experts=16, top_k=2, sessions=2, tokens=60)
SHARES = (0.0, 0.1, 0.25, 0.5, 1.0)


@pytest.fixture(scope="module")
def workload() -> Workload:
    return Workload.of(synthetic_trace(STATISTICS))


@pytest.fixture(scope="module")
def mixed() -> Workload:
    """Two sessions at a time, each with a prompt first."""
    return Workload.of(synthetic_trace(replace(STATISTICS, batch=2, prompt_tokens=8)))


@pytest.mark.parametrize(
    "name", [name for name in (*POLICIES, *BASELINES) if name != "b0-resident"]
)
@pytest.mark.parametrize("share", SHARES)
def test_nobody_beats_the_optimum(
    workload: Workload, mixed: Workload, name: str, share: float
) -> None:
    for work in (workload, mixed):
        slots = work.slots(share)
        tally = contenders([name])[name](work, slots, 0)
        filled_before = slots if name in ("b1-whole-layers", "b4-static") else 0
        assert tally.hits <= belady(work, slots).hits + filled_before
        assert tally.hits + tally.misses == work.demands.num_accesses
        assert 0 <= tally.evictions <= tally.fetched
        assert tally.bypasses <= tally.misses


def test_all_resident_is_the_optimum_of_all_slots(workload: Workload) -> None:
    [resident] = contenders(["b0-resident"]).values()
    assert resident(workload, 1, 0) == replay(workload, LRU, workload.num_experts)
    assert resident(workload, 1, 0).hits == belady(workload, workload.num_experts).hits


def test_the_default_is_nearer_to_the_optimum_than_recency() -> None:
    longer = replace(STATISTICS, experts=32, top_k=4, tokens=200)
    workload = Workload.of(synthetic_trace(longer))
    for share in (0.1, 0.25, 0.5):
        slots = workload.slots(share)
        assert replay(workload, DEFAULT, slots).hits > replay(workload, LRU, slots).hits


def test_whole_layers_move_whole(workload: Workload) -> None:
    [whole] = contenders(["b1-whole-layers"]).values()
    tally = whole(workload, 16, 0)
    assert tally.hit_rate == pytest.approx(1 / 3)
    assert tally.fetched == 16 + 2 * 60 * 2 * 16


def test_what_is_written_back_is_what_was_evicted(workload: Workload) -> None:
    [of_layers] = contenders(["b2-layer-lru"]).values()
    tally = of_layers(workload, 12, 0)
    assert tally.written_back == tally.evictions > 0


def test_a_right_lookahead_leaves_few_misses_and_a_wrong_one_is_paid_for(
    workload: Workload,
) -> None:
    slots = workload.slots(0.25)
    plain = replay(workload, DEFAULT, slots)
    right = replay(workload, DEFAULT, slots, lookahead=Lookahead(1, 1.0))
    wrong = replay(workload, DEFAULT, slots, lookahead=Lookahead(1, 0.0))
    assert right.misses < plain.misses / 4
    assert right.hits_by_prefetch + right.wasted_prefetches <= right.prefetches
    assert wrong.hits + wrong.misses == workload.demands.num_accesses
    assert wrong.hits > 0.8 * plain.hits  # what nobody expects takes no good slot


def test_the_table_does_what_was_replayed(mixed: Workload) -> None:
    slots, demands = mixed.slots(0.25), mixed.demands
    for policy in POLICIES.values():
        layers = {n: range(n * 16, n * 16 + 16) for n in range(3)}
        table: SlotTable[int] = SlotTable(layers, slots, policy, seed=5)
        for number, layer in enumerate(demands.layer_D.tolist()):
            wanted = slice(demands.start_D[number], demands.start_D[number + 1])
            experts, is_prompts = demands.expert_A[wanted], demands.is_prompts_A[wanted]
            table.release(
                table.demand(layer, experts[~is_prompts].tolist(), experts[is_prompts].tolist())
            )
        tally = replay(mixed, policy, slots, seed=5)
        assert (table.counts.hits, table.counts.evictions) == (tally.hits, tally.evictions)


def test_names_that_nothing_has() -> None:
    with pytest.raises(InvalidSettings, match="no policy 'fifo'"):
        policy_named("fifo")
    with pytest.raises(InvalidSettings, match="use all, nearest, lru"):
        contenders(["fifo"])
    assert policy_named("lru") is LRU
    assert contenders(["all"]).keys() == POLICIES.keys() | BASELINES.keys()
