"""The view as a function of what the store tells."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import (
    ROOT,
    AgentKey,
    AssignmentKey,
    Key,
    ModelKey,
    ResidencyKey,
    TierSetKey,
    key_of,
)
from lite_llm.metastore import Deleted, Entry, Snapshot, Written
from lite_llm.metastore.store import SnapshotCause
from lite_llm.placement import ClusterView, advanced, snapshot, view_of
from lite_llm.proto.v1.agent_pb2 import AgentStatus, Assignment, Residency
from lite_llm.proto.v1.model_pb2 import ModelSpec, TierSetSpec
from lite_llm.wire import dumps, ref_to_proto

TINY, BIG = ModelRef("default", "tiny"), ModelRef("team", "big")


def entry(key: Key | str, value: Message | bytes, revision: int = 1) -> Entry:
    text = key if isinstance(key, str) else key_of(key)
    stored = value if isinstance(value, bytes) else dumps(value)
    return Entry(text, stored, revision, revision, 1)


def spec(model: ModelRef, generation: int = 1) -> ModelSpec:
    return ModelSpec(ref=ref_to_proto(model), generation=generation)


def residency(model: ModelRef, node: str) -> Residency:
    return Residency(model=ref_to_proto(model), node=node)


def assignment(model: ModelRef, node: str) -> Assignment:
    return Assignment(model=ref_to_proto(model), node=node)


WHOLE: Sequence[tuple[Key, Message]] = (
    (ModelKey(TINY), spec(TINY)),
    (ModelKey(BIG), spec(BIG)),
    (TierSetKey(TINY), TierSetSpec(ref=ref_to_proto(TINY))),
    (AgentKey("n1"), AgentStatus(node="n1")),
    (AgentKey("n2"), AgentStatus(node="n2")),
    (ResidencyKey(TINY, "n1"), residency(TINY, "n1")),
    (ResidencyKey(TINY, "n2"), residency(TINY, "n2")),
    (AssignmentKey(BIG, "n2"), assignment(BIG, "n2")),
)


def test_a_snapshot_shows_everything() -> None:
    view = snapshot([entry(key, value) for key, value in WHOLE], 9)
    assert view.is_synced
    assert view == view_of(
        9,
        models={TINY: spec(TINY), BIG: spec(BIG)},
        agents={"n1": AgentStatus(node="n1"), "n2": AgentStatus(node="n2")},
        residencies={TINY: {"n1": residency(TINY, "n1"), "n2": residency(TINY, "n2")}},
        assignments={BIG: {"n2": assignment(BIG, "n2")}},
    )
    assert view.num_models == {"n1": 1, "n2": 2}


@given(st.lists(st.tuples(st.sampled_from(WHOLE), st.booleans()), max_size=30))
def test_events_lead_where_a_snapshot_starts(steps: list[tuple[tuple[Key, Message], bool]]) -> None:
    view, stored = snapshot([], 1), dict[str, Entry]()
    for revision, ((key, value), written) in enumerate(steps, start=2):
        if written:
            stored[key_of(key)] = entry(key, value, revision)
            view = advanced(view, Written(stored[key_of(key)]))
        else:
            stored.pop(key_of(key), None)
            view = advanced(view, Deleted(key_of(key), revision))
    assert view == snapshot(stored.values(), len(steps) + 1)


def test_a_later_snapshot_forgets_what_is_not_in_it() -> None:
    before = snapshot([entry(key, value) for key, value in WHOLE], 9)
    event = Snapshot((entry(ModelKey(BIG), spec(BIG)),), 3, SnapshotCause.WIPED)
    assert advanced(before, event) == ClusterView(3, {BIG: spec(BIG)})


def test_what_did_not_change_is_the_same() -> None:
    before = snapshot([entry(key, value) for key, value in WHOLE], 9)
    heartbeat = AgentStatus(node="n1", heartbeat=4)
    after = advanced(before, Written(entry(AgentKey("n1"), heartbeat, 10)))
    assert after.revision == 10
    assert after.agents["n1"] == heartbeat
    assert before.agents["n1"] == AgentStatus(node="n1"), "a view is frozen"
    assert after.agents["n2"] is before.agents["n2"]
    assert after.residencies is before.residencies
    assert after.models is before.models


@pytest.mark.parametrize(
    "broken",
    [
        entry(ModelKey(TINY), b"{"),
        entry(ModelKey(TINY), b"\xff\x00"),
        entry(ModelKey(TINY), b'{"ref":3}'),
        entry(ModelKey(TINY), spec(BIG)),
        entry(ModelKey(TINY), b"{}"),
        entry(AgentKey("n1"), AgentStatus(node="n2")),
        entry(AgentKey("n1"), b"[]"),
        entry(ResidencyKey(TINY, "n1"), residency(TINY, "n2")),
        entry(ResidencyKey(TINY, "n1"), residency(BIG, "n1")),
        entry(AssignmentKey(TINY, "n1"), assignment(BIG, "n1")),
        entry(ROOT + "models/BAD/name", spec(TINY)),
        entry(ROOT + "unheard/of", b"{}"),
        entry(ROOT, b""),
    ],
)
def test_malformed_entries_are_absent_and_harm_nobody(broken: Entry) -> None:
    sound = entry(ModelKey(BIG), spec(BIG))
    assert snapshot([broken, sound], 4) == ClusterView(4, {BIG: spec(BIG)})
    view = advanced(snapshot([sound], 3), Written(broken))
    assert view.models == {BIG: spec(BIG)}
    assert [*view.agents, *view.residencies, *view.assignments] == []


def test_a_value_that_turns_malformed_is_no_longer_believed() -> None:
    view = snapshot([entry(ModelKey(TINY), spec(TINY))], 3)
    assert advanced(view, Written(entry(ModelKey(TINY), b"{", 4))) == ClusterView(4)
