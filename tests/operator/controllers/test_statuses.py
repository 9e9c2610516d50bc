"""What a status says of a model, case by case, without any server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lite_llm.contracts.errors import InvalidName
from lite_llm.controllers.facts import ModelFacts, Usable
from lite_llm.controllers.judging import ModelCase, judged, why_cold
from lite_llm.controllers.statuses import model_status
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.agent_pb2 import Assignment, Residency
from lite_llm.proto.v1.orchestrator_pb2 import ScalingState
from lite_llm.testing.custom_resources import CustomResource

MODEL = CustomResource(Path(__file__).resolve().parents[3] / "crds" / "litellmmodels.yaml")
NOW = "2026-11-21T00:00:00Z"
AGENTS = {"n1": Usable({"zone": "a"}), "n2": Usable({})}
ACTIVE = Residency(
    state=model_pb2.MODEL_STATE_ACTIVE,
    nearest=model_pb2.MEDIUM_GPU,
    checkpoint_digest="ab",
)
LOADING = Residency(
    state=model_pb2.MODEL_STATE_INIT,
    nearest=model_pb2.MEDIUM_OBJECT_STORE,
    reason="fetching 3.1 of 4.0 GB",
)
BROKEN = Residency(
    state=model_pb2.MODEL_STATE_RECOVERING, failure="Corrupt", reason="shard 3 differs"
)
FAILED = model_pb2.Ingestion(state=model_pb2.INGESTION_STATE_FAILED, reason="no such repository")
FETCHING = model_pb2.Ingestion(state=model_pb2.INGESTION_STATE_FETCHING, reason="1 of 4 GB")
CLAIM = Assignment(node="n1", reason="3 requests held")


def case(
    residencies: Mapping[str, Residency] | None = None,
    *,
    claims: Mapping[str, Assignment] | None = None,
    ingestion: model_pb2.Ingestion | None = None,
    scaling: ScalingState | None = None,
    agents: Mapping[str, Usable] = AGENTS,
    labels: Mapping[str, str] | None = None,
    least: int = 0,
    **more: Any,
) -> ModelCase:
    spec = model_pb2.ModelSpec(
        ref=model_pb2.ModelRef(namespace="default", name="m"),
        scaling=model_pb2.Scaling(min_replicas=least),
        agent_labels=labels,
        tier_set="t",
    )
    facts = ModelFacts(dict(residencies or {}), dict(claims or {}), ingestion, scaling)
    return ModelCase(**{"spec": spec, "facts": facts, "agents": agents, **more})


def told(of: ModelCase) -> dict[str, tuple[str, str]]:
    return {each.kind: (each.status, each.reason) for each in judged(of)}


UNDECLARED: dict[str, Any] = {"spec": model_pb2.ModelSpec(), "refusal": InvalidName("too long")}


@pytest.mark.parametrize(
    ("of", "ready", "words"),
    [
        (case(), ("True", "ScaledToZero"), "nobody asks for it"),
        (
            case(scaling=ScalingState(reason="idle for 600 s")),
            ("True", "ScaledToZero"),
            "idle for 600 s",
        ),
        (case({"n1": ACTIVE}), ("True", "Serving"), ""),
        (
            case({"n1": LOADING}, claims={"n1": CLAIM}),
            ("True", "Starting"),
            "on n1: fetching 3.1 of 4.0 GB",
        ),
        (case(claims={"n1": CLAIM}), ("True", "Starting"), "on n1: 3 requests held"),
        (case(least=1), ("False", "Starting"), "nobody asks for it"),
        (case(agents={}), ("False", "NoAgents"), "no agent is healthy and takes new models"),
        (
            case(labels={"zone": "b"}),
            ("False", "NoMatchingAgents"),
            "no agent has the labels {'zone': 'b'}",
        ),
        (case(labels={"zone": "a"}), ("True", "ScaledToZero"), "nobody asks for it"),
        (case({"n1": BROKEN}), ("False", "LoadFailed"), "on n1: shard 3 differs"),
        (case(ingestion=FAILED), ("False", "IngestionFailed"), "no such repository"),
        (case(ingestion=FETCHING), ("False", "Ingesting"), "1 of 4 GB"),
        (
            case(is_tier_set_missing=True),
            ("False", "TierSetNotFound"),
            "there is no TierSet 't' in namespace default",
        ),
        (case(**UNDECLARED), ("False", "NotAccepted"), "too long"),
    ],
)
def test_ready_and_why_it_is_cold(of: ModelCase, ready: tuple[str, str], words: str) -> None:
    assert told(of)["Ready"] == ready
    if words:
        assert why_cold(of) == words


@pytest.mark.parametrize(
    ("of", "degraded"),
    [
        (case({"n1": ACTIVE}), ("False", "AsExpected")),
        (case(), ("False", "AsExpected")),
        (case({"n1": ACTIVE}, least=2), ("True", "TooFewReplicas")),
        (case({"n1": ACTIVE, "n2": BROKEN}), ("True", "Corrupt")),
        (case(ingestion=FAILED), ("True", "IngestionFailed")),
        (case({"n1": ACTIVE}, is_tier_set_missing=True), ("True", "TierSetNotFound")),
        (case({"n1": ACTIVE}, refusal=InvalidName("too long")), ("True", "SpecRefused")),
    ],
)
def test_degraded(of: ModelCase, degraded: tuple[str, str]) -> None:
    assert told(of)["Degraded"] == degraded


def test_what_serves_is_loaded_verified_and_ingested() -> None:
    conditions = told(case({"n1": ACTIVE}))
    assert conditions["Loaded"] == ("True", "Active")
    assert conditions["Verified"] == ("True", "ChecksumsVerified")
    assert conditions["Ingested"] == ("True", "ReadFromSource")
    signed = case({"n1": ACTIVE}, spec=model_pb2.ModelSpec(require_signature=True))
    assert told(signed)["Verified"] == ("True", "SignatureVerified")
    assert told(case({"n1": BROKEN}))["Verified"] == ("False", "Corrupt")
    assert told(case(ingestion=FETCHING))["Ingested"] == ("False", "Fetching")


def status(of: ModelCase, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    body = {"metadata": {"generation": 2}, "status": before or {}}
    return model_status(body, of, now=NOW, selector="app=agent", url="")


def test_nothing_new_is_written_again() -> None:
    once = status(case({"n1": ACTIVE}))
    assert status(case({"n1": ACTIVE}), once) == once


def test_what_was_verified_is_not_unknown_because_it_sleeps() -> None:
    awake = status(case({"n1": ACTIVE}))
    asleep = status(case(), awake)
    kinds = {each["type"]: each for each in asleep["conditions"]}
    assert kinds["Verified"]["status"] == "True"
    assert asleep["checkpointDigest"] == "ab"
    fresh = {each["type"]: each["reason"] for each in status(case())["conditions"]}
    assert fresh["Verified"] == "NotLoaded"


def test_counts_and_places() -> None:
    two = Residency(state=model_pb2.MODEL_STATE_WARM, nearest=model_pb2.MEDIUM_DRAM)
    two.tiers.add(tier="near", medium=model_pb2.MEDIUM_DRAM, experts=8)
    both = Residency()
    both.CopyFrom(ACTIVE)
    both.tiers.add(tier="near", medium=model_pb2.MEDIUM_DRAM, experts=16)
    both.tiers.add(tier="dense", medium=model_pb2.MEDIUM_GPU)
    said = status(case({"n1": both, "n2": two}, scaling=ScalingState(desired=3)))
    assert (said["state"], said["tier"]) == ("Active", "GPU")
    assert (said["replicas"], said["desiredReplicas"]) == (1, 3)
    assert said["tiers"] == [
        {"name": "dense", "medium": "GPU", "agents": 1},
        {"name": "near", "medium": "DRAM", "agents": 2, "experts": 16},
    ]
    assert (status(case())["state"], status(case())["replicas"]) == ("Init", 0)


@pytest.mark.parametrize("failure", ["Out of memory", "9Lives", "-", "Größe", "x" * 5000, "Io:"])
def test_whatever_an_agent_says_the_schema_admits_the_status(failure: str) -> None:
    wild = Residency(
        state=model_pb2.MODEL_STATE_RECOVERING, failure=failure, reason="why? " * 2000, started_at=1
    )
    wild.last_cold_start.path = "by way of a tape library"
    for number in range(300):
        wild.tiers.add(tier=f"{number:03}" + "t" * 200, medium=model_pb2.MEDIUM_GPU)
    said = status(case({"n1": wild}))
    body = {"metadata": {"name": "m"}, "spec": {"source": {"uri": "hf://a/b"}}, "status": said}
    assert MODEL.faults(body) == []
