"""Order of leaving and the promotion rate."""

from __future__ import annotations

import pytest

from lite_llm.tiers.eviction import (
    EvictionWeights,
    Usage,
    is_earning_promotion,
    leaving_order,
    priority,
)

NOW = 10_000.0
LRU = EvictionWeights()


def keys(*usages: Usage, weights: EvictionWeights = LRU) -> str:
    return "".join(usage.key for usage in leaving_order(usages, NOW, weights))


def test_the_least_recently_used_leaves_first_and_the_never_used_before_it() -> None:
    assert keys(Usage("a", 1, (9.0,)), Usage("b", 1, (3.0,)), Usage("c", 1)) == "cba"


def test_each_weight_pulls_its_own_way() -> None:
    rare, often = Usage("r", 1, (1.0,), uses=1), Usage("o", 1, (1.0,), uses=9)
    large, small = Usage("l", 2 << 30, (1.0,)), Usage("s", 1 << 20, (1.0,))
    minor, major = Usage("m", 1, (1.0,), rank=3), Usage("M", 1, (1.0,), rank=0)
    assert keys(often, rare, weights=EvictionWeights(alpha=1, beta=0)) == "ro"
    assert keys(small, large, weights=EvictionWeights(gamma=1, beta=0)) == "ls"
    assert keys(major, minor, weights=EvictionWeights(delta=1, beta=0)) == "mM"
    assert priority(rare, NOW, EvictionWeights(alpha=1, beta=0)) == 0.5


def test_ties_fall_by_seed_and_not_by_order_of_arrival() -> None:
    usages = [Usage(key, 1, (1.0,)) for key in "abcdefgh"]
    assert keys(*usages) == keys(*reversed(usages))
    assert keys(*usages) != keys(*usages, weights=EvictionWeights(seed=1))


@pytest.mark.parametrize(
    ("times", "earned"),
    [
        ([0, 1, 2, 3, 4], False),
        ([0, 1, 2, 3, 4, 5], True),
        ([0, 1000, 2000, 3000, 3500, 3600], True),
        ([0, 1000, 2000, 3000, 3500, 3601], False),
        ([0, 0, 0, 0, 0, 0, 9000], False),
    ],
)
def test_more_than_five_uses_in_an_hour_earn_promotion(times: list[float], earned: bool) -> None:
    usage = Usage("a", 1)
    for time in times:
        usage = usage.used(time, keep=6)
    assert is_earning_promotion(usage, times[-1], above_per_hour=5) is earned
    assert usage.uses == len(times)
