"""A request gets tiers within the administrator's bounds, and never none."""

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.contracts import Medium, Placement, Tier, TierMode, TierSet
from lite_llm.contracts.errors import Forbidden, InvalidName, InvalidRequest, InvalidSettings
from lite_llm.proto.v1 import model_pb2

FAST, BALANCED, DEEP, MAX = TierMode


@st.composite
def tiers(draw: st.DrawFn, number: int) -> Tier:
    groups, experts = draw(st.integers(1, 8)), draw(st.integers(1, 64))
    return Tier(
        id=number,
        name=f"t{number}",
        parameter_budget=draw(st.integers(0, 2**60)),
        groups=groups,
        experts_per_group=experts,
        placement=draw(st.sampled_from(Placement)),
        top_k_groups=draw(st.integers(1, groups)),
        top_k_experts=draw(st.integers(1, experts)),
        dtype=draw(st.sampled_from(["", "BF16", "F8_E4M3"])),
    )


@st.composite
def tier_sets(draw: st.DrawFn) -> TierSet:
    ids = draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6, unique=True))
    low, default, high = sorted(
        draw(st.tuples(*[st.sampled_from(TierMode)] * 3)), key=lambda mode: mode.rank
    )
    return TierSet(
        tiers=tuple(draw(tiers(number)) for number in ids),
        top_k_tiers=draw(st.integers(1, len(ids))),
        min_mode=low,
        default_mode=default,
        max_mode=high,
    )


def tier(number: int, placement: Placement, **fields: Any) -> Tier:
    fields = {
        "name": f"t{number}",
        "groups": 2,
        "experts_per_group": 4,
        "parameter_budget": 1,
        **fields,
    }
    return Tier(id=number, placement=placement, **fields)


LADDER = tuple(tier(number, placement) for number, placement in enumerate(Placement))


def ids(chosen: Sequence[Tier]) -> list[int]:
    return [tier.id for tier in chosen]


@pytest.mark.parametrize(
    ("mode", "chosen"), [(FAST, [0]), (BALANCED, [0, 1]), (DEEP, [0, 1, 2]), (MAX, [0, 1, 2, 3])]
)
def test_modes_are_as_specified(mode: TierMode, chosen: list[int]) -> None:
    assert ids(TierSet(tiers=LADDER).select(mode)) == chosen


def test_a_set_without_hot_tiers_answers_with_its_nearest() -> None:
    cold = TierSet(tiers=(tier(1, Placement.ARCHIVE), tier(2, Placement.COLD)))
    assert ids(cold.select(FAST)) == [2]
    assert ids(cold.select(MAX)) == [1, 2]


@given(tier_sets())
def test_modes_are_nested_and_never_empty(tier_set: TierSet) -> None:
    chosen = [set(ids(tier_set.of_mode(mode))) for mode in TierMode]
    assert chosen[0]
    assert all(smaller <= larger for smaller, larger in pairwise(chosen))
    assert chosen[-1] == set(ids(tier_set.tiers))


@given(tier_sets(), st.none() | st.sampled_from(TierMode))
def test_a_mode_stays_within_the_administrators_bounds(
    tier_set: TierSet, mode: TierMode | None
) -> None:
    chosen = ids(tier_set.select(mode))
    assert chosen == sorted(chosen)
    assert set(ids(tier_set.of_mode(tier_set.min_mode))) <= set(chosen)
    assert set(chosen) <= set(ids(tier_set.of_mode(tier_set.max_mode)))
    if mode is None:
        assert chosen == ids(tier_set.of_mode(tier_set.default_mode))
    elif tier_set.min_mode.rank <= mode.rank <= tier_set.max_mode.rank:
        assert chosen == ids(tier_set.of_mode(mode))


@given(tier_sets(), st.data())
def test_names_give_just_those_tiers_or_a_refusal(tier_set: TierSet, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(tier_set.by_name)), min_size=1))
    allowed = {tier.name for tier in tier_set.of_mode(tier_set.max_mode)}
    if set(names) <= allowed:
        chosen = tier_set.select(names=names)
        assert {tier.name for tier in chosen} == set(names)
        assert ids(chosen) == sorted(ids(chosen))
    else:
        with pytest.raises(Forbidden, match="lies beyond this deployment's max_mode"):
            tier_set.select(names=names)


@pytest.mark.parametrize("name", ["t9", "", "T0", "t0\n", "x" * 10_000])
def test_an_unknown_name_is_refused_and_the_known_ones_told(name: str) -> None:
    with pytest.raises(InvalidRequest, match="choose from t0, t1, t2, t3"):
        TierSet(tiers=LADDER).select(names=["t0", name])


@given(tier_sets())
def test_no_selection_runs_more_experts_than_the_bound(tier_set: TierSet) -> None:
    runs = [
        sum(tier.active_experts for tier in chosen)
        for chosen in combinations(tier_set.tiers, tier_set.top_k_tiers)
    ]
    assert max(runs) == tier_set.max_active_experts
    assert all(tier.active_experts <= tier.experts for tier in tier_set.tiers)


def test_counts() -> None:
    one = tier(0, Placement.HOT, groups=3, experts_per_group=5, top_k_groups=2, top_k_experts=4)
    assert (one.experts, one.active_experts) == (15, 8)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"number": -1}, "must not be negative"),
        ({"parameter_budget": -1}, "must not be negative"),
        ({"groups": 0}, "top_k_groups must lie in"),
        ({"top_k_groups": 0}, "top_k_groups must lie in"),
        ({"top_k_groups": 3}, r"top_k_groups must lie in 1\.\.groups: 1\.\.2"),
        ({"experts_per_group": 0}, "top_k_experts must lie in"),
        ({"top_k_experts": 0}, "top_k_experts must lie in"),
        ({"top_k_experts": 5}, r"top_k_experts must lie in 1\.\.experts_per_group: 1\.\.4"),
    ],
)
def test_a_tier_that_contradicts_itself_is_refused(fields: dict[str, int], words: str) -> None:
    with pytest.raises(InvalidSettings, match=words):
        tier(placement=Placement.HOT, **{"number": 0, **fields})


def test_a_tiers_name_is_a_label() -> None:
    with pytest.raises(InvalidName):
        tier(0, Placement.HOT, name="a.b")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tiers": ()}, "at least one tier"),
        ({"tiers": (LADDER[0], tier(0, Placement.HOT, name="b"))}, "an? id of its own"),
        ({"tiers": (LADDER[0], tier(1, Placement.HOT, name="t0"))}, "a name of its own"),
        ({"top_k_tiers": 0}, r"1\.\.4"),
        ({"top_k_tiers": 5}, r"1\.\.4"),
        ({"min_mode": DEEP}, "min_mode <= default_mode <= max_mode"),
        ({"max_mode": FAST}, "min_mode <= default_mode <= max_mode"),
        ({"routing_seed": -1}, "unsigned 128-bit"),
        ({"routing_seed": 1 << 128}, "unsigned 128-bit"),
    ],
)
def test_a_set_that_contradicts_itself_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSettings, match=words):
        TierSet(**{"tiers": LADDER, **fields})


@pytest.mark.parametrize(
    ("ours", "theirs", "prefix"),
    [
        (Medium, model_pb2.Medium, "MEDIUM"),
        (Placement, model_pb2.Placement, "PLACEMENT"),
        (TierMode, model_pb2.TierMode, "TIER_MODE"),
    ],
)
def test_words_and_order_are_those_of_the_protocol(ours: Any, theirs: Any, prefix: str) -> None:
    words = [f"{prefix}_UNSPECIFIED", *(f"{prefix}_{member.name}" for member in ours)]
    assert theirs.keys() == words
    assert theirs.values() == list(range(len(words)))
    if ours is not TierMode:
        assert [member.value + 1 for member in ours] == theirs.values()[1:]
