"""The status of a model and of a TierSet, from what is known of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from lite_llm.contracts import LiteLLMError, ModelState, TierSet, outcome_of
from lite_llm.controllers.conditions import condition_of, fails, holds, with_conditions
from lite_llm.controllers.judging import (
    NOT_VERIFIED,
    READY,
    VERIFIED,
    ModelCase,
    judged,
    state_of,
    why_cold,
)
from lite_llm.controllers.specs import Body
from lite_llm.proto.v1 import generate_pb2, model_pb2
from lite_llm.proto.v1.agent_pb2 import Residency

Status = dict[str, Any]

MEDIA: Mapping[int, str] = {
    model_pb2.MEDIUM_GPU: "GPU",
    model_pb2.MEDIUM_DRAM: "DRAM",
    model_pb2.MEDIUM_NVME: "NVMe",
    model_pb2.MEDIUM_SATA: "SATA",
    model_pb2.MEDIUM_OBJECT_STORE: "ObjectStore",
}
_BEST_FIRST = (
    ModelState.ACTIVE,
    ModelState.EXPANDING,
    ModelState.FROZEN,
    ModelState.WARM,
    ModelState.RECOVERING,
    ModelState.INIT,
)
_PHASE = "LOAD_PHASE_"
_MAX_WORDS, _MAX_TIERS, _MAX_NAME, _MAX_PATH = 1024, 256, 63, 16  # what the schema admits


def model_status(body: Body, case: ModelCase, *, now: str, selector: str, url: str) -> Status:
    """The whole status of a ``LiteLLMModel``; equal to the one that it has if nothing changed.

    What was measured when it last ran (digest, last start, verification) outlives its replicas.
    """
    before = body.get("status", {})
    told = judged(case)
    if not any(each.kind == VERIFIED for each in told) and not condition_of(body, VERIFIED):
        told.append(NOT_VERIFIED)
    generation = body["metadata"]["generation"]
    ingestion, scaling = case.facts.ingestion, case.facts.scaling
    held = [each for _, each in case.held]
    digests = [each.checkpoint_digest for each in held if each.checkpoint_digest]
    if ingestion is not None and ingestion.checkpoint_digest:
        digests.append(ingestion.checkpoint_digest)
    media = [each.nearest for each in held if each.nearest in MEDIA]
    if not media and ingestion is not None and ingestion.locations:
        media = [model_pb2.MEDIUM_OBJECT_STORE]
    status: Status = {
        "observedGeneration": generation,
        "conditions": with_conditions(
            before.get("conditions", []), told, generation=generation, now=now
        ),
        "state": min(map(state_of, held), key=_BEST_FIRST.index, default=ModelState.INIT).value,
        "replicas": len(case.serving),
        "desiredReplicas": scaling.desired if scaling else case.spec.scaling.min_replicas,
        "selector": selector,
        "tiers": _tiers(held),
    }
    optional = {
        "tier": MEDIA[min(media)] if media else None,
        "url": url or None,
        "checkpointDigest": digests[0] if digests else before.get("checkpointDigest"),
        "lastColdStart": _last_start(case) or before.get("lastColdStart"),
        "whyCold": None if case.serving else why_cold(case)[:_MAX_WORDS],
    }
    return status | {name: value for name, value in optional.items() if value is not None}


def tier_set_status(
    body: Body, tier_set: TierSet | None, refusal: LiteLLMError | None, *, models: int, now: str
) -> Status:
    """The whole status of a ``TierSet`` that ``models`` models name."""
    if refusal is None:
        ready = holds(READY, "Stored", "models can use it")
    else:
        ready = fails(READY, outcome_of(refusal).reason, str(refusal))
    generation = body["metadata"]["generation"]
    conditions = body.get("status", {}).get("conditions", [])
    status: Status = {
        "observedGeneration": generation,
        "conditions": with_conditions(conditions, [ready], generation=generation, now=now),
        "models": models,
    }
    if tier_set is not None:
        status["maxActiveExperts"] = tier_set.max_active_experts
    return status


def _tiers(held: list[Residency]) -> list[dict[str, Any]]:
    """How many agents have which tier in which medium."""
    agents: dict[tuple[str, str], int] = {}
    experts: dict[tuple[str, str], int] = {}
    for each in held:
        for tier in each.tiers:
            if tier.medium in MEDIA:
                at = (tier.tier[:_MAX_NAME], MEDIA[tier.medium])
                agents[at] = agents.get(at, 0) + 1
                experts[at] = max(experts.get(at, 0), tier.experts)
    return [
        {"name": name, "medium": medium, "agents": agents[name, medium]}
        | ({"experts": experts[name, medium]} if experts[name, medium] else {})
        for name, medium in sorted(agents)
    ][:_MAX_TIERS]


def _last_start(case: ModelCase) -> dict[str, Any] | None:
    started = [(each.started_at, node) for node, each in case.held if each.started_at]
    if not started:
        return None
    at, node = max(started)
    start = case.facts.residencies[node].last_cold_start
    phases = {
        generate_pb2.LoadPhase.Name(each.phase).removeprefix(_PHASE).lower(): each.seconds
        for each in start.phases
        if each.phase in generate_pb2.LoadPhase.values()
    }
    return {
        "path": start.path[:_MAX_PATH],
        "agent": node,
        "at": datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "milliseconds": round(1000 * sum(phases.values())),
        "phases": [
            {"name": name, "milliseconds": round(1000 * seconds)}
            for name, seconds in phases.items()
        ],
    }
