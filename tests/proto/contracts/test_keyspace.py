"""Every key has one string, and no two things share one."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import InvalidName
from lite_llm.contracts.keyspace import (
    AGENTS,
    ASSIGNMENTS,
    INGESTIONS,
    LEADERS,
    MODELS,
    RESIDENCY,
    ROOT,
    TIER_SETS,
    AgentKey,
    AliasKey,
    AssignmentKey,
    DoorKey,
    IngestionKey,
    Key,
    LeaderKey,
    ModelKey,
    ResidencyKey,
    ScalingKey,
    TierSetKey,
    assignments_of,
    key_of,
    parse_key,
    residency_of,
)

PREFIXES = (MODELS, TIER_SETS, AGENTS, RESIDENCY, ASSIGNMENTS, INGESTIONS, LEADERS)

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
nodes = names.filter(lambda name: len(name) <= 253)
refs = st.builds(ModelRef, labels, names.filter(lambda name: len(name) <= 63))
keys = st.one_of(
    st.builds(ModelKey, refs),
    st.builds(TierSetKey, refs),
    st.builds(AgentKey, nodes),
    st.builds(ResidencyKey, refs, nodes),
    st.builds(AssignmentKey, refs, nodes),
    st.builds(IngestionKey, refs),
    st.builds(ScalingKey, refs),
    st.builds(DoorKey, labels),
    st.builds(AliasKey, refs),
    st.builds(LeaderKey, labels),
)

MODEL = ModelRef("default", "llama-3.1")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (ModelKey(MODEL), "/lite-llm/v1/models/default/llama-3.1"),
        (TierSetKey(MODEL), "/lite-llm/v1/tiersets/default/llama-3.1"),
        (AgentKey("gpu-1.rack"), "/lite-llm/v1/agents/gpu-1.rack"),
        (ResidencyKey(MODEL, "gpu-1"), "/lite-llm/v1/residency/default/llama-3.1/gpu-1"),
        (AssignmentKey(MODEL, "gpu-1"), "/lite-llm/v1/assignments/default/llama-3.1/gpu-1"),
        (IngestionKey(MODEL), "/lite-llm/v1/ingestions/default/llama-3.1"),
        (ScalingKey(MODEL), "/lite-llm/v1/scaling/default/llama-3.1"),
        (DoorKey("orchestrator-1"), "/lite-llm/v1/doors/orchestrator-1"),
        (AliasKey(MODEL), "/lite-llm/v1/aliases/default/llama-3.1"),
        (LeaderKey("autoscaler"), "/lite-llm/v1/leaders/autoscaler"),
    ],
)
def test_keys_are_as_agreed(key: Key, text: str) -> None:
    assert key_of(key) == text
    assert parse_key(text) == key


@given(keys)
def test_a_key_survives_writing_and_reading(key: Key) -> None:
    assert parse_key(key_of(key)) == key


@given(keys, keys)
def test_no_two_keys_share_a_string(one: Key, other: Key) -> None:
    assert (key_of(one) == key_of(other)) == (one == other)


@given(refs, refs, nodes)
def test_a_models_prefix_covers_its_own_keys_only(
    one: ModelRef, other: ModelRef, node: str
) -> None:
    assert key_of(ResidencyKey(one, node)).startswith(residency_of(one))
    assert key_of(AssignmentKey(one, node)).startswith(assignments_of(one))
    if one != other:
        assert not key_of(ResidencyKey(other, node)).startswith(residency_of(one))
        assert not key_of(AssignmentKey(other, node)).startswith(assignments_of(one))


def test_prefixes_are_apart() -> None:
    for prefix in PREFIXES:
        assert prefix.startswith(ROOT)
        assert prefix.endswith("/")
        assert [other for other in PREFIXES if other.startswith(prefix)] == [prefix]


@pytest.mark.parametrize(
    "text",
    ["", "/", ROOT, ROOT[:-1], MODELS, MODELS + "default", MODELS + "default/", MODELS + "/a",
     MODELS + "default/a/", MODELS + "default/a/b", MODELS + "default//a", MODELS + "../a",
     MODELS + "default/a\n", MODELS + "default/A", "/lite-llm/v2/models/default/a",
     "lite-llm/v1/models/default/a", AGENTS, AGENTS + "..", AGENTS + "a/b", AGENTS + "a\n",
     AGENTS + "é", RESIDENCY + "default/a", RESIDENCY + "default/a/n/x", LEADERS + "a.b",
     LEADERS + "a" * 64, ROOT + "unknown/a", ROOT + "x" * 100_000],
    ids=lambda text: ascii(text[-24:]),
)  # fmt: skip
def test_other_strings_are_no_keys(text: str) -> None:
    with pytest.raises(InvalidName):
        parse_key(text)


@given(st.text(), st.sampled_from(["", ROOT, *PREFIXES]))
def test_reading_is_total(text: str, prefix: str) -> None:
    with suppress(InvalidName):
        assert key_of(parse_key(prefix + text)) == prefix + text


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\n", "A", "a" * 300])
@pytest.mark.parametrize("kind", [AgentKey, LeaderKey, lambda node: ResidencyKey(MODEL, node),
                                  lambda node: AssignmentKey(MODEL, node)])  # fmt: skip
def test_hostile_names_make_no_keys(kind: type[AgentKey], name: str) -> None:
    with pytest.raises(InvalidName):
        key_of(kind(name))
