"""The compiled pool against the one in plain numpy: the same slots after every call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

from lite_llm.experts import compiled_pool, policies_odds
from lite_llm.experts.compiled_pool import CompiledPool
from lite_llm.experts.policies import POLICIES, Ints, Policy
from lite_llm.experts.pool import Pool
from lite_llm.kernels.cache import directory, stamp

LAYERS = (6, 9, 4)
FIRST = (0, 6, 15, 19)


def some(rng: np.random.Generator, layer: int, most: int) -> Ints:
    """Ascending experts of a layer; low ones more often."""
    count = int(rng.integers(0, most + 1))
    odds = 1.0 / np.arange(1, LAYERS[layer] + 1)
    chosen = rng.choice(LAYERS[layer], count, replace=False, p=odds / odds.sum())
    return np.sort(chosen) + FIRST[layer]


def call(pool: Pool, what: int, layer: int, some: Ints, others: Ints) -> object:
    others = np.setdiff1d(others, some)
    if what < 6:
        return pool.demand(layer, some, others if what < 2 else others[:0])
    if what < 8:
        return pool.want(some, 0.25 * (what - 5), prefill=len(others) > 2)
    if what == 8 and len(some) and pool.slot_N[some[0]] >= 0:
        pool.pins_S[pool.slot_N[some[0]]] ^= 1
    if what == 9 and len(some) and pool.slot_N[some[-1]] >= 0:
        pool.drop(int(some[-1]))
    return ()


@pytest.mark.parametrize("policy", [*POLICIES.values()], ids=[*POLICIES])
@pytest.mark.parametrize("num_slots", [0, 1, 4, 9, 15, 19])
def test_both_decide_the_same(
    policy: Policy, num_slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies_odds, "FORGET_AFTER", 64)  # often enough to be seen
    rng = np.random.default_rng(num_slots)
    plain = Pool(LAYERS, num_slots, policy, seed=7)
    compiled = CompiledPool(LAYERS, num_slots, policy, seed=7)
    for step in range(400):
        layer, what = step % 3, int(rng.integers(0, 10))
        demanded, others = some(rng, layer, 4), some(rng, layer, 3)
        said = [call(pool, what, layer, demanded, others) for pool in (plain, compiled)]
        assert str(said[0]) == str(said[1]), step
        assert (plain.expert_S == compiled.expert_S).all()
        assert plain.free == compiled.free
        assert plain.counts == compiled.counts
        assert (plain.history.uses_N == compiled.history.uses_N).all()
    assert num_slots == 0 or plain.counts.hits
    if plain.history.odds is not None and compiled.history.odds is not None:
        every = np.arange(FIRST[-1])
        assert (plain.history.odds.of(every) == compiled.history.odds.of(every)).all()


def test_machine_code_is_kept_by_all_sources_that_its_constants_come_from() -> None:
    room = Path(policies_odds.__file__).parent
    loops: list[Any] = [
        each for each in vars(compiled_pool).values() if isinstance(each, Dispatcher)
    ]
    assert len(loops) > 3
    for loop in loops:
        kept = loop._cache
        assert kept._cache_file._source_stamp == stamp(room) != stamp()
        assert kept.cache_path == str(directory(room))
