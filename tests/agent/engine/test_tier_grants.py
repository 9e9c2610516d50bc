"""What a request gets of a model's tiers, and what is refused before it begins."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from lite_llm.contracts import ExpertKey, Placement, Tier, TierMode, TierSet
from lite_llm.contracts.errors import Forbidden, InvalidRequest, InvalidSettings
from lite_llm.contracts.manifest import ExpertRecord
from lite_llm.engine import Model
from lite_llm.engine.tier_grants import Grant, TierGrants
from lite_llm.models import parse_config
from lite_llm.proto.v1.generate_pb2 import TierSelection
from lite_llm.proto.v1.model_pb2 import (
    TIER_MODE_BALANCED,
    TIER_MODE_FAST,
    TIER_MODE_MAX,
    TIER_MODE_UNSPECIFIED,
)

EXPERTS = {"one": range(1), "four": range(1, 5), "rest": range(5, 8)}
PLACES = (Placement.HOT, Placement.WARM, Placement.COLD)
TIERS = tuple(
    Tier(
        id=number,
        name=name,
        parameter_budget=0,
        groups=1,
        experts_per_group=len(rows),
        placement=PLACES[number],
    )
    for number, (name, rows) in enumerate(EXPERTS.items())
)
MIXTRAL: Mapping[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "dtype": "float32",
    "vocab_size": 320,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}


@dataclass
class Config:
    """A decoder of which nothing is asked but its configuration."""

    config: Any


@pytest.fixture(scope="module")
def tiered(model: Model) -> Model:
    """Two experts a token, of eight in three tiers: one hot, four warm, three cold."""
    experts = tuple(
        ExpertRecord(ExpertKey(layer, tier, 0, row - rows.start), (), row)
        for layer in range(2)
        for tier, rows in enumerate(EXPERTS.values())
        for row in rows
    )
    manifest = replace(model.manifest, tiers=TIERS, experts=experts)
    config = parse_config(MIXTRAL)
    return replace(model, manifest=manifest, decoder=cast(Any, Config(config)))


def test_all_of_it_answers_where_nobody_chose(tiered: Model) -> None:
    grants = TierGrants(tiered)
    everything = Grant(("one", "four", "rest"))
    assert grants.grant(TierSelection()) == everything
    assert grants.grant(TierSelection(mode=TIER_MODE_MAX)) == everything
    assert grants.grant(TierSelection(tiers=["rest", "four", "one"])) == everything
    assert grants.grant(TierSelection(mode=TIER_MODE_BALANCED)) == Grant(
        ("one", "four"), frozenset({0, 1})
    )
    assert grants.grant(TierSelection(tiers=["rest", "rest"])) == Grant(("rest",), frozenset({2}))


def test_a_declared_tier_set_decides(tiered: Model) -> None:
    declared = TierSet(tiers=TIERS, min_mode=TierMode.BALANCED, max_mode=TierMode.BALANCED)
    grants = TierGrants(tiered, declared)
    balanced = Grant(("one", "four"), frozenset({0, 1}))
    for mode in (TIER_MODE_UNSPECIFIED, TIER_MODE_FAST, TIER_MODE_MAX):
        assert grants.grant(TierSelection(mode=mode)) == balanced
    with pytest.raises(Forbidden, match="beyond this deployment's max_mode balanced"):
        grants.grant(TierSelection(tiers=["rest"]))


def test_a_tier_set_may_leave_tiers_of_the_checkpoint_out(tiered: Model) -> None:
    grants = TierGrants(tiered, TierSet(tiers=TIERS[1:], default_mode=TierMode.MAX))
    assert grants.grant(TierSelection()) == Grant(("four", "rest"), frozenset({1, 2}))
    with pytest.raises(InvalidRequest, match="there is no tier 'one': choose from four, rest"):
        grants.grant(TierSelection(tiers=["one"]))


@pytest.mark.parametrize("selection", [{"tiers": ["one"]}, {"mode": TIER_MODE_FAST}])
def test_too_few_experts_are_refused_at_once(tiered: Model, selection: dict[str, Any]) -> None:
    grants = TierGrants(tiered)
    for _ in range(2):
        with pytest.raises(InvalidRequest) as raised:
            grants.grant(TierSelection(**selection))
        assert raised.value.where == "lite_llm.tier_set"
        assert "needs 2 experts a token, but 1" in raised.value.message
        assert raised.value.remedy == "choose more tiers, or mode balanced or deep or max"


@pytest.mark.parametrize(
    ("declared", "where"),
    [
        (TierSet(tiers=TIERS, default_mode=TierMode.FAST), "tierSet.defaultMode"),
        (TierSet(tiers=(replace(TIERS[0], name="two"),)), "tierSet"),
        (TierSet(tiers=(replace(TIERS[1], id=7),)), "tierSet"),
        (TierSet(tiers=(TIERS[0], replace(TIERS[1], experts_per_group=5))), "tierSet"),
    ],
)
def test_a_tier_set_that_is_not_the_checkpoints_is_refused(
    tiered: Model, declared: TierSet, where: str
) -> None:
    with pytest.raises(InvalidSettings) as raised:
        TierGrants(tiered, declared)
    assert raised.value.where == where
    assert raised.value.remedy


def test_a_model_without_experts_knows_modes_and_no_tiers(model: Model) -> None:
    grants = TierGrants(model)
    assert grants.grant(TierSelection(mode=TIER_MODE_FAST)) == Grant()
    with pytest.raises(InvalidRequest, match="there is no tier 'near'") as raised:
        grants.grant(TierSelection(tiers=["near"]))
    assert raised.value.where == "lite_llm.tier_set"
    with pytest.raises(InvalidSettings, match="it has no experts"):
        TierGrants(model, TierSet(tiers=TIERS))


def test_grants_of_other_experts_have_other_salts() -> None:
    grants = [Grant(), Grant(("a",), frozenset({1})), Grant(("a",), frozenset({1, 12}))]
    assert len({grant.salt for grant in grants}) == 3
    assert Grant(("a",), frozenset({3})).salt == Grant(("b",), frozenset({3})).salt
    assert not any(b"/" in grant.salt for grant in grants)  # which ends it, before the tenant
