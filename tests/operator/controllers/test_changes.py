"""How one change becomes patches, Events and rings: pure functions and two small books."""

from __future__ import annotations

import logging
from typing import Any

import jsonpatch
import kopf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import AgentKey, IngestionKey, ModelKey, ResidencyKey, key_of
from lite_llm.controllers.announcing import REASONS, announced
from lite_llm.controllers.conditions import Condition, fails, holds, with_conditions
from lite_llm.controllers.facts import Facts
from lite_llm.controllers.objects import Objects
from lite_llm.controllers.patches import FINALIZER, finalizer_patch, status_patch
from lite_llm.controllers.specs import MODELS, TIER_SETS, ResourceName
from lite_llm.controllers.watching import quiet_kopf
from lite_llm.metastore import Deleted, Entry, Snapshot, SnapshotCause, Written
from lite_llm.proto.v1 import agent_pb2, model_pb2
from lite_llm.wire import dumps

NAME = ResourceName(MODELS, "default", "m")
TIERS = ResourceName(TIER_SETS, "default", "t")
REF = ModelRef("default", "m")


def body(version: int = 1, *, uid: str = "u", status: Any = None, **spec: Any) -> dict[str, Any]:
    metadata = {"namespace": "default", "name": "m", "uid": uid, "resourceVersion": str(version)}
    told: dict[str, Any] = {"metadata": metadata, "spec": spec}
    return told | ({"status": status} if status is not None else {})


def conditions(*told: Condition) -> list[dict[str, Any]]:
    return with_conditions([], told, generation=1, now="2026-11-21T00:00:00Z")


# -- patches

fields = st.dictionaries(
    st.sampled_from(["state", "tiers", "replicas", "whyCold"]),
    st.one_of(st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=2)),
)


@given(before=fields, after=fields, has_status=st.booleans())
def test_a_patch_leads_from_one_status_to_the_other(
    before: dict[str, Any], after: dict[str, Any], has_status: bool
) -> None:
    old = {"conditions": conditions(holds("Ready", "Serving", "m")), **before}
    new = {"conditions": conditions(fails("Ready", "NoAgents", "m")), **after}
    told = body(status=old if has_status else None)
    patched = jsonpatch.apply_patch(told, status_patch(told, new))
    assert patched["status"] == new
    assert status_patch(patched, new) == []


def test_a_patch_fails_where_another_wrote_conditions() -> None:
    old = {"conditions": conditions(holds("Ready", "Serving", "m"))}
    patch = status_patch(body(status=old), {"conditions": conditions(), "replicas": 1})
    theirs = {"conditions": conditions(holds("Audited", "Done", "m"))}
    with pytest.raises(jsonpatch.JsonPatchTestFailed):
        jsonpatch.apply_patch(body(status=theirs), patch)
    elsewhere = body(2, status=old, source={"uri": "hf://other/one"})
    assert jsonpatch.apply_patch(elsewhere, patch)["status"]["replicas"] == 1


@pytest.mark.parametrize("others", [[], ["theirs"], ["a", "b"]])
def test_a_finalizer_comes_and_goes_and_leaves_others(others: list[str]) -> None:
    told = body()
    if others:
        told["metadata"]["finalizers"] = others
    on = jsonpatch.apply_patch(told, finalizer_patch(told, wanted=True))
    assert on["metadata"]["finalizers"] == [*others, FINALIZER]
    assert finalizer_patch(on, wanted=True) == []
    off = jsonpatch.apply_patch(on, finalizer_patch(on, wanted=False))
    assert off["metadata"].get("finalizers", []) == others
    assert finalizer_patch(off, wanted=False) == []


# -- Events


def reasons(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [each.reason for each in announced(before, after)]


def test_events_tell_what_changed_and_nothing_twice() -> None:
    cold = {"conditions": conditions(holds("Accepted", "Stored", "m")), "replicas": 0}
    assert reasons({}, cold) == ["Accepted"]
    assert reasons(cold, cold) == []
    start = {"path": "warm", "agent": "n1", "milliseconds": 1500, "phases": []}
    start["phases"] = [{"name": "read", "milliseconds": 1500}]
    warm = cold | {"replicas": 1, "lastColdStart": start}
    (event,) = announced(cold, warm)
    assert (event.reason, event.message) == (
        "Started",
        "warm start on n1 took 1.5 s: read 1.5 s",
    )
    assert reasons(warm, warm | {"replicas": 3}) == ["ScaledUp"]
    assert reasons(warm | {"replicas": 3}, warm) == ["ScaledDown"]
    assert reasons(warm, cold) == ["ScaledToZero"]


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (holds("Accepted", "Stored", ""), fails("Accepted", "InvalidName", ""), "Refused"),
        (fails("Ingested", "Publishing", ""), holds("Ingested", "Published", ""), "Ingested"),
        (
            fails("Ingested", "Fetching", ""),
            fails("Ingested", "IngestionFailed", ""),
            "IngestionFailed",
        ),
        (
            holds("Verified", "ChecksumsVerified", ""),
            fails("Verified", "Corrupt", ""),
            "VerificationFailed",
        ),
        (fails("Degraded", "AsExpected", ""), holds("Degraded", "Corrupt", ""), "Degraded"),
        (holds("Degraded", "Corrupt", ""), fails("Degraded", "AsExpected", ""), "Recovered"),
    ],
)
def test_every_turn_has_its_reason(before: Condition, after: Condition, reason: str) -> None:
    was, now = ({"conditions": conditions(each)} for each in (before, after))
    assert reasons(was, now) == [reason]
    assert reason in REASONS


# -- the book of objects


def test_older_news_of_an_object_changes_nothing() -> None:
    objects = Objects()
    assert objects.seen(MODELS, body(5)) == {NAME}
    assert objects.seen(MODELS, body(4)) == set()
    assert objects.seen(MODELS, body(1, uid="another")) == {NAME}
    assert objects.gone(MODELS, body(9)) == set(), "another of its name came since"
    assert objects.gone(MODELS, body(9, uid="another")) == {NAME}
    assert NAME not in objects


def test_news_from_before_an_objects_end_do_not_bring_it_back() -> None:
    objects = Objects()
    objects.seen(MODELS, body(3))
    assert objects.gone(MODELS, body(4)) == {NAME}
    assert objects.seen(MODELS, body(3)) == set(), "a list that was asked for before it went"
    assert objects.get(NAME) is None
    objects.seen(MODELS, body(5, uid="v"))
    assert objects.seen(MODELS, body(4)) == set()
    assert objects.get(NAME) == body(5, uid="v"), "another of its name is another"


def test_models_and_their_tier_sets_ring_for_each_other() -> None:
    objects = Objects()
    tiers = body()
    tiers["metadata"]["name"] = "t"
    assert objects.seen(MODELS, body(1, tierSetRef={"name": "t"})) == {NAME, TIERS}
    assert objects.seen(TIER_SETS, tiers) == {TIERS, NAME}
    assert set(objects.users(TIERS)) == {NAME}
    assert objects.seen(MODELS, body(2)) == {NAME, TIERS}
    assert set(objects.users(TIERS)) == set()


# -- the book of facts


def entry(key: str, value: bytes) -> Entry:
    return Entry(key=key, value=value, create_revision=1, mod_revision=1, version=1)


def agent(node: str, *, healthy: bool = True, heartbeat: int = 1) -> Entry:
    status = agent_pb2.AgentStatus(node=node, heartbeat=heartbeat)
    status.health.healthy = healthy
    return entry(key_of(AgentKey(node)), dumps(status))


def test_facts_ring_for_their_model() -> None:
    facts = Facts()
    held = agent_pb2.Residency(state=model_pb2.MODEL_STATE_ACTIVE)
    at = key_of(ResidencyKey(REF, "n1"))
    assert facts.observe(Written(entry(at, dumps(held)))) == {NAME}
    assert facts.of(REF).residencies["n1"].state == model_pb2.MODEL_STATE_ACTIVE
    assert facts.observe(Deleted(at, 2)) == {NAME}
    assert REF not in facts.models, "nothing is kept of what is gone"
    ingestion = entry(key_of(IngestionKey(REF)), b"no json")
    assert facts.observe(Written(ingestion)) == {NAME}
    assert facts.of(REF).ingestion is None, "what is malformed counts as absent"


def test_only_a_heartbeat_that_changes_something_rings_for_all() -> None:
    facts = Facts()
    assert facts.observe(Written(agent("n1"))) is None
    assert facts.observe(Written(agent("n1", heartbeat=2))) == set()
    assert facts.observe(Written(agent("n1", healthy=False))) is None
    assert facts.observe(Deleted(key_of(AgentKey("n1")), 3)) == set()


def test_a_snapshot_is_all_there_is() -> None:
    facts = Facts()
    facts.observe(Written(agent("n1")))
    intent = entry(key_of(ModelKey(REF)), b"{}")
    assert facts.observe(Snapshot((intent,), 9, SnapshotCause.WIPED)) is None
    assert (list(facts.intents), facts.agents) == ([intent.key], {})
    assert facts.name_of(intent.key) == NAME
    assert facts.name_of("/lite-llm/v1/agents/n1") is None
    assert facts.observe(Written(entry("/lite-llm/v1/newer/thing", b""))) == set()


def test_what_kopf_says_of_an_object_is_brief(caplog: pytest.LogCaptureFixture) -> None:
    quiet_kopf()
    whole = {"settings": kopf.OperatorSettings(), "k8s_skip": True, "k8s_ref": {"name": "m"}}
    with caplog.at_level(logging.WARNING):
        logging.getLogger("kopf.objects").warning("Throttling", extra=whole)
    (record,) = caplog.records
    assert vars(record).keys() & whole.keys() == {"k8s_ref"}
