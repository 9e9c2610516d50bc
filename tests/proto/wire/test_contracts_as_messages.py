"""Contracts become messages and come back the same; any number of the wire means something."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.contracts import (
    Budget,
    Medium,
    ModelRef,
    ModelState,
    Placement,
    Tier,
    TierMode,
    TierSet,
)
from lite_llm.contracts.errors import ConfigurationError, InvalidSettings
from lite_llm.proto.v1 import model_pb2
from lite_llm.wire import values

ENUMS: list[Any] = [
    (ModelState, values.state_to_proto, values.state_from_proto, ModelState.INIT),
    (Medium, values.medium_to_proto, values.medium_from_proto, Medium.OBJECT_STORE),
    (TierMode, values.mode_to_proto, values.mode_from_proto, None),
]
REF = ModelRef("default", "a")

limits = st.none() | st.integers(1, 2**32 - 1)
budgets = st.builds(
    Budget,
    first_token_ms=limits,
    per_token_ms=limits,
    micro_cost_per_1k_tokens=st.none() | st.integers(1, 2**64 - 1),
)


@st.composite
def tiers(draw: st.DrawFn, number: int) -> Tier:
    groups, experts = draw(st.integers(1, 2**32 - 1)), draw(st.integers(1, 2**32 - 1))
    return Tier(
        id=number,
        name=f"t{number}",
        parameter_budget=draw(st.integers(0, 2**64 - 1)),
        groups=groups,
        experts_per_group=experts,
        placement=draw(st.sampled_from(Placement)),
        top_k_groups=draw(st.integers(1, groups)),
        top_k_experts=draw(st.integers(1, experts)),
        dtype=draw(st.text(max_size=9)),
    )


@st.composite
def tier_sets(draw: st.DrawFn) -> TierSet:
    numbers = draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5, unique=True))
    modes = draw(st.tuples(*[st.sampled_from(TierMode)] * 3))
    low, default, high = sorted(modes, key=lambda mode: mode.rank)
    return TierSet(
        tiers=tuple(draw(tiers(number)) for number in numbers),
        top_k_tiers=draw(st.integers(1, len(numbers))),
        min_mode=low,
        default_mode=default,
        max_mode=high,
        budget=draw(budgets),
        routing_seed=draw(st.integers(0, 2**128 - 1)),
    )


@given(tier_sets())
def test_a_tier_set_survives_the_wire_and_the_store(tier_set: TierSet) -> None:
    message = values.tier_set_to_proto(REF, tier_set)
    assert values.tier_set_from_proto(message) == tier_set
    assert values.ref_from_proto(message.ref) == REF
    stored = values.loads(values.dumps(message), model_pb2.TierSetSpec, where="/k")
    assert values.tier_set_from_proto(stored) == tier_set


@given(budgets)
def test_a_budget_survives_the_wire(budget: Budget) -> None:
    limits = {name: limit for name, limit in vars(budget).items() if limit is not None}
    assert values.budget_from_proto(model_pb2.Budget(**limits)) == budget


def test_a_tier_sets_absent_fields_have_defaults() -> None:
    message = model_pb2.TierSetSpec(tiers=[model_pb2.Tier(name="a", groups=1, experts_per_group=1)])
    tier_set = values.tier_set_from_proto(message)
    only = Tier(
        id=0,
        name="a",
        parameter_budget=0,
        groups=1,
        experts_per_group=1,
        placement=Placement.ARCHIVE,
    )
    assert tier_set == TierSet(tiers=(only,))


@pytest.mark.parametrize(
    "message",
    [
        model_pb2.TierSetSpec(),
        model_pb2.TierSetSpec(tiers=[model_pb2.Tier(name="a")]),
        model_pb2.TierSetSpec(tiers=[model_pb2.Tier(name="A", groups=1, experts_per_group=1)]),
        model_pb2.TierSetSpec(
            tiers=[model_pb2.Tier(name="a", groups=1, experts_per_group=1)],
            routing_seed=b"\xff" * 17,
        ),
        model_pb2.TierSetSpec(
            tiers=[model_pb2.Tier(name="a", groups=1, experts_per_group=1)], top_k_tiers=2
        ),
    ],
)
def test_a_tier_set_that_makes_no_sense_is_refused(message: model_pb2.TierSetSpec) -> None:
    with pytest.raises(ConfigurationError) as caught:
        values.tier_set_from_proto(message)
    assert caught.value.remedy


def test_a_mode_order_that_makes_no_sense_is_refused() -> None:
    message = model_pb2.TierSetSpec(
        tiers=[model_pb2.Tier(name="a", groups=1, experts_per_group=1)],
        max_mode=model_pb2.TIER_MODE_FAST,
    )
    with pytest.raises(InvalidSettings, match="min_mode <= default_mode <= max_mode"):
        values.tier_set_from_proto(message)


@pytest.mark.parametrize(("kind", "to_proto", "from_proto", "unknown"), ENUMS)
def test_words_survive_the_wire(kind: Any, to_proto: Any, from_proto: Any, unknown: Any) -> None:
    assert [from_proto(to_proto(word)) for word in kind] == list(kind)
    assert [to_proto(word) for word in kind] == list(range(1, len(kind) + 1))


@pytest.mark.parametrize(("kind", "to_proto", "from_proto", "unknown"), ENUMS)
@pytest.mark.parametrize("value", [0, -1, 99, 2**31 - 1, -(2**31)])
def test_words_of_a_newer_version_have_a_meaning(
    kind: Any, to_proto: Any, from_proto: Any, unknown: Any, value: int
) -> None:
    assert from_proto(value) is unknown


def test_no_mode_is_unspecified() -> None:
    assert values.mode_to_proto(None) == model_pb2.TIER_MODE_UNSPECIFIED


@pytest.mark.parametrize("value", [0, -1, 5, 2**31 - 1])
def test_a_placement_of_a_newer_version_claims_no_memory(value: int) -> None:
    assert values.placement_from_proto(value) is Placement.ARCHIVE


def test_every_placement_survives_the_wire() -> None:
    assert [values.placement_from_proto(placement + 1) for placement in Placement] == list(
        Placement
    )
