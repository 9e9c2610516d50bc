"""The optimum is what trying every choice finds; what is demanded together is no reuse."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.experts.belady import next_use, optimal_hits
from lite_llm.experts.traces import Demands

sequences = st.lists(st.sets(st.integers(0, 5), min_size=1, max_size=3), max_size=7)


def demands_of(sets: Sequence[set[int]]) -> Demands:
    experts = [expert for wanted in sets for expert in sorted(wanted)]
    return Demands(
        layer_D=np.zeros(len(sets), np.int64),
        start_D=np.cumsum([0, *map(len, sets)]),
        expert_A=np.array(experts, np.int64),
        is_prompts_A=np.zeros(len(experts), np.bool_),
    )


def hits(sets: Sequence[set[int]], num_slots: int) -> int:
    return int(optimal_hits(demands_of(sets), num_slots).sum())


@given(sequences, st.integers(0, 4))
def test_no_choice_has_more_hits(sets: list[set[int]], num_slots: int) -> None:
    @cache
    def best(at: int, inside: frozenset[int]) -> int:
        if at == len(sets):
            return 0
        there = inside | sets[at]
        stays = combinations(sorted(there), min(num_slots, len(there)))
        return len(inside & sets[at]) + max(best(at + 1, frozenset(kept)) for kept in stays)

    assert hits(sets, num_slots) == best(0, frozenset())


def test_what_is_demanded_together_is_in_nobodys_way() -> None:
    together = [{0, 1, 2}, {0, 1, 2}]
    assert [hits(together, slots) for slots in range(4)] == [0, 1, 2, 3]
    assert hits([{0}, {1}, {2}, {0}, {1}, {2}], 2) == 2


def test_the_next_use_is_that_of_another_demand() -> None:
    found = next_use(demands_of([{0, 1}, {1}, {0, 1}]))
    assert found.tolist() == [2, 1, 2, 3, 3]


def test_nothing_demanded() -> None:
    assert hits([], 3) == 0
