"""Experts into tiers: by rule, by use, and never more than a tier's budget."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_llm.checkpoint import TierRules, assign, load_rules
from lite_llm.contracts.errors import InvalidSettings, OverBudget
from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.manifest import ExpertRecord, Span, TensorRecord
from lite_llm.contracts.tiers import Placement

LAYERS, EXPERTS, PARAMETERS = 3, 8, 10


def expert(layer: int, row: int) -> ExpertRecord:
    part = TensorRecord("gate.weight", Span("f", 0, 4 * PARAMETERS), (PARAMETERS,), "F32")
    return ExpertRecord(ExpertKey(layer, 0, 0, row), (part,), row)


ALL = [expert(layer, row) for layer in range(LAYERS) for row in range(EXPERTS)]


def rules(*tiers: dict[str, Any], **fields: Any) -> TierRules:
    return msgspec.convert({"tiers": list(tiers), **fields}, TierRules)


def rows(found: Any, tier: int, layer: int) -> list[int]:
    return [e.router_row for e in found.experts if (e.key.tier, e.key.layer) == (tier, layer)]


def test_by_ranges_and_the_rest() -> None:
    found = assign(
        ALL,
        rules(
            {"name": "hot", "experts": "0-2, 5", "top_k_experts": 2},
            {"name": "cold", "experts": "rest", "placement": "cold", "groups": 2},
        ),
    )
    assert rows(found, 0, 1) == [0, 1, 2, 5]
    assert rows(found, 1, 1) == [3, 4, 6, 7]
    hot, cold = found.tiers
    assert (hot.groups, hot.experts_per_group, hot.top_k_experts) == (1, 4, 2)
    assert (cold.id, cold.placement, cold.groups) == (1, Placement.COLD, 2)
    assert cold.parameter_budget == 4 * LAYERS * PARAMETERS
    assert [str(e.key) for e in found.experts[4:8]] == ["0.1.0.0", "0.1.0.1", "0.1.1.0", "0.1.1.1"]


def test_by_layer() -> None:
    by_layer = {"0-1": "0-1", "2-": "6-7"}
    found = assign(ALL, rules({"name": "a", "experts": by_layer}, {"name": "b", "experts": "rest"}))
    assert [rows(found, 0, layer) for layer in range(3)] == [[0, 1], [0, 1], [6, 7]]


def test_by_recorded_use_with_ties_to_the_lower_number() -> None:
    counts = {str(layer): [5, 9, 1, 9, 0, 0, 7, layer] for layer in range(LAYERS)}
    found = assign(
        ALL,
        rules(
            {"name": "hot", "most_used": 3},
            {"name": "warm", "placement": "warm", "most_used": 1},
            {"name": "cold", "placement": "cold", "experts": "rest"},
            activations=counts,
        ),
    )
    assert [rows(found, 0, layer) for layer in range(3)] == [[1, 3, 6]] * 3
    assert rows(found, 1, 0) == [0]
    assert rows(found, 2, 2) == [2, 4, 5, 7]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.lists(
        st.lists(st.integers(0, 9), min_size=EXPERTS, max_size=EXPERTS), min_size=3, max_size=3
    ),
)
def test_every_expert_gets_one_place_within_its_tier(
    sizes: list[int], counts: list[list[int]]
) -> None:
    if sum(sizes) >= EXPERTS:
        sizes = sizes[:1]
    tiers = [{"name": f"t{n}", "most_used": size} for n, size in enumerate(sizes)]
    activations = {str(layer): values for layer, values in enumerate(counts)}
    found = assign(ALL, rules(*tiers, {"name": "rest", "experts": "rest"}, activations=activations))
    assert Counter((e.key.layer, e.router_row) for e in found.experts) == Counter(
        (e.key.layer, e.router_row) for e in ALL
    )
    assert [e.key for e in found.experts] == sorted({e.key for e in found.experts})
    for e in found.experts:
        tier = found.tiers[e.key.tier]
        assert e.key.group < tier.groups
        assert e.key.expert < tier.experts_per_group


def test_a_budget_is_counted_in_parameters() -> None:
    exact = LAYERS * EXPERTS * PARAMETERS
    assign(ALL, rules({"name": "a", "experts": "rest", "parameter_budget": exact}))
    with pytest.raises(OverBudget, match=f"{exact} parameters, but its budget is {exact - 1}"):
        assign(ALL, rules({"name": "a", "experts": "rest", "parameter_budget": exact - 1}))


@pytest.mark.parametrize(
    ("tiers", "words"),
    [
        ([{"name": "a", "experts": "0-3"}], "no tier takes expert 4"),
        ([{"name": "a", "experts": "rest"}, {"name": "b", "experts": "0"}], "no expert is left"),
        ([{"name": "a"}], "either experts or most_used"),
        ([{"name": "a", "experts": "0", "most_used": 1}], "either experts or most_used"),
        ([{"name": "a", "most_used": 1}], "too few"),
        ([{"name": "a", "experts": "x-y"}], "no range"),
        ([{"name": "a", "experts": "rest", "placement": "tepid"}], "placement must be one of hot"),
        ([{"name": "A!", "experts": "rest"}], "not a valid name"),
        ([{"name": "a", "experts": "rest", "top_k_experts": 9}], "top_k_experts"),
    ],
)
def test_rules_that_make_no_tiers_are_refused(tiers: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(InvalidSettings, match=words):
        assign(ALL, rules(*tiers))


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_rules_come_from_files(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "use.json").write_text(json.dumps({"0": [1, 2]}))
    path = tmp_path / f"tiers{suffix}"
    path.write_text('{"tiers": [{"name": "a", "most_used": 1}], "activations": "use.json"}')
    found = load_rules(path)
    assert found.activations == {"0": [1, 2]}
    assert found.tiers[0].name == "a"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "no mapping"),
        ("{", "can't be read"),
        ('{"tiers": []}', "length"),
        ('{"tiers": [{"name": "a", "expert": "0"}]}', "expert"),
        ('{"tiers": [{"experts": "0"}]}', "name"),
    ],
)
def test_files_that_say_something_else_are_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "tiers.json"
    path.write_text(text)
    with pytest.raises(InvalidSettings, match=words):
        load_rules(path)
