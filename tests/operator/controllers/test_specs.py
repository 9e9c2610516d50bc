"""From custom resources to what is stored."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lite_llm.contracts import Placement, TierMode
from lite_llm.contracts.errors import InvalidName, InvalidSettings, Unsupported
from lite_llm.controllers.specs import (
    MODELS,
    TIER_SETS,
    ResourceName,
    model_spec,
    tier_set,
    tier_set_spec,
)
from lite_llm.proto.v1 import model_pb2
from lite_llm.testing.custom_resources import CustomResource
from lite_llm.wire import dumps

REPO = Path(__file__).resolve().parents[3]
EXAMPLES = [
    told
    for path in sorted((REPO / "docs" / "examples").glob("*.yaml"))
    for told in yaml.safe_load_all(path.read_text())
]
KINDS = {known.kind: known for known in map(CustomResource, sorted((REPO / "crds").glob("*.yaml")))}


def as_served(told: dict[str, Any]) -> dict[str, Any]:
    """An object as the API server tells it after creation."""
    body = KINDS[told["kind"]].defaulted(told)
    body["metadata"] = {"namespace": "default", "generation": 3, **told["metadata"]}
    return body


def example(name: str, kind: str = "LiteLLMModel") -> dict[str, Any]:
    return as_served(
        next(told for told in EXAMPLES if (told["metadata"]["name"], told["kind"]) == (name, kind))
    )


def test_every_field_of_a_model() -> None:
    spec = model_spec(example("assistant"))
    assert (spec.ref.namespace, spec.ref.name) == ("default", "assistant")
    assert (spec.source.uri, spec.version) == ("s3://models/assistant", "assistant-v1.0.0")
    assert (spec.tier_set, list(spec.pinned_tiers)) == ("assistant", ["everyday"])
    scaling = spec.scaling
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 8)
    assert (scaling.target_queue_length, scaling.idle_seconds) == (3, 600)
    assert spec.generation == 3

    foreign = model_spec(example("gemma-gguf"))
    assert (foreign.backend, foreign.profile) == ("llamacpp", "medium")
    assert dict(foreign.agent_labels) == {"engine": "llamacpp"}
    assert foreign.memory_bytes == 6 << 30

    signed = model_spec(example("ledger"))
    assert signed.require_signature
    assert signed.source.revision == "4f2a9c"
    assert list(signed.tenants) == ["finance", "audit"]
    nearby = model_spec(example("nearby"))
    assert nearby.keep_warm == model_pb2.MEDIUM_DRAM
    (floor,) = nearby.scaling.floors
    assert (floor.days, floor.start, floor.end) == ("mon-fri", "08:00", "18:30")
    assert (floor.zone, floor.min_replicas) == ("Europe/Berlin", 1)
    assert list(model_spec(example("qwen3-8b")).aliases) == ["chat"]


def test_every_field_of_a_tier_set() -> None:
    told = tier_set(example("assistant", "TierSet"))
    everyday, languages, science = told.tiers
    assert (everyday.name, everyday.id, everyday.groups) == ("everyday", 0, 1)
    assert (everyday.experts_per_group, everyday.top_k_experts) == (16, 2)
    assert everyday.parameter_budget == 4_000_000_000
    assert (languages.placement, science.placement) == (Placement.WARM, Placement.COLD)
    assert told.top_k_tiers == 2
    assert (told.min_mode, told.default_mode, told.max_mode) == (
        TierMode.FAST,
        TierMode.BALANCED,
        TierMode.DEEP,
    )
    assert (told.budget.first_token_ms, told.budget.per_token_ms) == (2000, 50)
    assert told.budget.micro_cost_per_1k_tokens is None
    message = tier_set_spec(example("assistant", "TierSet"))
    assert (message.ref.name, message.generation) == ("assistant", 3)


def test_a_seed_is_read_as_it_is_written() -> None:
    body = example("assistant", "TierSet")
    body["spec"]["routingSeed"] = "0" * 28 + "0102"
    assert tier_set(body).routing_seed == 258


@pytest.mark.parametrize("told", EXAMPLES, ids=lambda told: told["metadata"]["name"])
def test_equal_objects_give_equal_bytes(told: dict[str, Any]) -> None:
    translate = model_spec if told["kind"] == "LiteLLMModel" else tier_set_spec
    assert dumps(translate(as_served(told))) == dumps(translate(as_served(told)))


def test_what_can_not_be_meant_is_refused() -> None:
    long = example("qwen3-8b")
    long["metadata"]["name"] = "n" * 64
    with pytest.raises(InvalidName, match="1 to 63"):
        model_spec(long)
    locked = example("qwen3-8b")
    locked["spec"]["security"] = {"encryption": "Required"}
    with pytest.raises(Unsupported, match="encrypted"):
        model_spec(locked)
    twice = example("assistant", "TierSet")
    twice["spec"]["tiers"][1]["id"] = 0
    with pytest.raises(InvalidSettings, match="id of its own"):
        tier_set(twice)


def test_names() -> None:
    assert ResourceName(MODELS, "default", "m").key == "/lite-llm/v1/models/default/m"
    assert ResourceName(TIER_SETS, "default", "t").key == "/lite-llm/v1/tiersets/default/t"
    assert ResourceName(MODELS, "default", "n" * 64).key is None


@pytest.mark.parametrize(
    "memory", ["999999999999999", "999999999999Ki", "999999999Mi", "999999Gi", "999Ti"]
)
def test_the_largest_memory_that_the_schema_admits_fits_the_wire(memory: str) -> None:
    told = example("gemma-gguf") | {"spec": {"source": {"uri": "hf://owner/tiny"}}}
    told["spec"]["resources"] = {"memory": memory}
    kind = KINDS["LiteLLMModel"]
    assert kind.faults(told) == []
    assert 0 < model_spec(as_served(told)).memory_bytes < 2**63
    assert kind.faults(told | {"spec": told["spec"] | {"resources": {"memory": "9" + memory}}})
