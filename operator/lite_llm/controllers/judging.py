"""Which conditions a model is in: pure functions of its spec and of what agents tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lite_llm.contracts import LiteLLMError, ModelState, outcome_of
from lite_llm.controllers.conditions import Condition, fails, holds, unknown
from lite_llm.controllers.facts import ModelFacts, Usable
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.agent_pb2 import Residency
from lite_llm.wire.values import state_from_proto

ACCEPTED, READY, INGESTED, VERIFIED, LOADED, DEGRADED = (
    "Accepted", "Ready", "Ingested", "Verified", "Loaded", "Degraded",
)  # fmt: skip

_INGESTING = {
    model_pb2.INGESTION_STATE_FETCHING: "Fetching",
    model_pb2.INGESTION_STATE_CONVERTING: "Converting",
    model_pb2.INGESTION_STATE_PUBLISHING: "Publishing",
}
_IN_MEMORY = (ModelState.WARM, ModelState.ACTIVE, ModelState.EXPANDING, ModelState.FROZEN)


@dataclass(frozen=True, kw_only=True)
class ModelCase:
    """All that there is to know of one model when its status is written."""

    spec: model_pb2.ModelSpec
    """What is stored of it, or was when the last good one came."""
    facts: ModelFacts
    agents: Mapping[str, Usable]
    refusal: LiteLLMError | None = None
    """Why its object's spec could not be stored."""
    is_tier_set_missing: bool = False

    @property
    def serving(self) -> list[str]:
        """Nodes where it takes requests."""
        return [node for node, each in self.held if state_of(each).takes_requests]

    @property
    def held(self) -> list[tuple[str, Residency]]:
        """What agents tell of it, by node."""
        return sorted(self.facts.residencies.items())

    @property
    def in_memory(self) -> list[tuple[str, Residency]]:
        """Agents that have it in memory or nearer."""
        return [(node, each) for node, each in self.held if state_of(each) in _IN_MEMORY]

    @property
    def failing(self) -> list[tuple[str, Residency]]:
        """Agents where it broke."""
        return [
            (node, each)
            for node, each in self.held
            if each.failure or state_of(each) is ModelState.RECOVERING
        ]

    @property
    def fitting(self) -> list[str]:
        """Agents that take models and that its placement allows."""
        wanted = self.spec.agent_labels.items()
        return [node for node, agent in self.agents.items() if wanted <= agent.labels.items()]


def state_of(residency: Residency) -> ModelState:
    """Of the model on that agent."""
    return state_from_proto(residency.state)


def judged(case: ModelCase) -> list[Condition]:
    """Every condition of the model."""
    degraded = next(_degradations(case), None)
    return [
        _accepted(case),
        _ingested(case),
        *_verified(case),
        _loaded(case),
        _ready(case),
        degraded or fails(DEGRADED, "AsExpected", "nothing is wrong"),
    ]


def _accepted(case: ModelCase) -> Condition:
    if case.refusal is not None:
        return fails(ACCEPTED, outcome_of(case.refusal).reason, str(case.refusal))
    return holds(ACCEPTED, "Stored", "the model can be asked for")


def _ingested(case: ModelCase) -> Condition:
    ingestion = case.facts.ingestion
    if ingestion is None:
        if case.in_memory:
            return holds(INGESTED, "ReadFromSource", "agents read it from its source")
        return unknown(INGESTED, "NotObserved", "nobody has brought it in yet")
    if ingestion.state == model_pb2.INGESTION_STATE_DONE:
        places = ", ".join(ingestion.locations) or "the cluster's stores"
        return holds(INGESTED, "Published", f"it lies in {places}")
    if ingestion.state == model_pb2.INGESTION_STATE_FAILED:
        return fails(INGESTED, "IngestionFailed", ingestion.reason)
    return fails(INGESTED, _INGESTING.get(ingestion.state, "Pending"), ingestion.reason)


def _verified(case: ModelCase) -> Iterator[Condition]:
    """None while there is nothing to say that was not said when it was last in memory."""
    for node, each in case.held:
        if each.failure == "Corrupt":
            yield fails(VERIFIED, "Corrupt", f"on {node}: {each.reason}")
            return
    digests = [each.checkpoint_digest for _, each in case.in_memory if each.checkpoint_digest]
    if digests and case.spec.require_signature:
        yield holds(VERIFIED, "SignatureVerified", "signature and checksums are as they must be")
    elif digests:
        yield holds(VERIFIED, "ChecksumsVerified", "its bytes are what its checksums say")
    elif case.in_memory:
        yield unknown(VERIFIED, "NotChecked", "its backend does not check checkpoints")


NOT_VERIFIED = unknown(VERIFIED, "NotLoaded", "its bytes are checked when they are first loaded")


def _loaded(case: ModelCase) -> Condition:
    if serving := case.serving:
        return holds(LOADED, "Active", f"it takes requests on {', '.join(serving)}")
    if case.in_memory:
        where = ", ".join(node for node, _ in case.in_memory)
        return holds(LOADED, "Warm", f"it lies in memory of {where}")
    if case.facts.assignments:
        return fails(LOADED, "Starting", why_cold(case))
    return fails(LOADED, "ScaledToZero", why_cold(case))


def _ready(case: ModelCase) -> Condition:
    """Whether a request would be answered, at once or after a start."""
    if serving := case.serving:
        return holds(READY, "Serving", f"it takes requests on {', '.join(serving)}")
    words, ingestion = why_cold(case), case.facts.ingestion
    if case.refusal is not None and not case.spec.ByteSize():
        return fails(READY, "NotAccepted", words)
    if case.is_tier_set_missing:
        return fails(READY, "TierSetNotFound", words)
    if case.failing:
        return fails(READY, "LoadFailed", words)
    if ingestion is not None and ingestion.state == model_pb2.INGESTION_STATE_FAILED:
        return fails(READY, "IngestionFailed", words)
    if ingestion is not None and ingestion.state != model_pb2.INGESTION_STATE_DONE:
        return fails(READY, "Ingesting", words)
    if not case.agents:
        return fails(READY, "NoAgents", words)
    if not case.fitting:
        return fails(READY, "NoMatchingAgents", words)
    if case.spec.scaling.min_replicas:
        return fails(READY, "Starting", words)
    if case.facts.assignments:
        return holds(READY, "Starting", words)
    return holds(READY, "ScaledToZero", words)


def _degradations(case: ModelCase) -> Iterator[Condition]:
    """What is wrong, worst first."""
    if case.refusal is not None:
        yield holds(DEGRADED, "SpecRefused", f"an older spec stays in force: {case.refusal}")
    if case.is_tier_set_missing:
        yield holds(DEGRADED, "TierSetNotFound", _missing(case))
    for node, each in case.failing:
        yield holds(DEGRADED, each.failure or "Recovering", f"on {node}: {each.reason}")
    ingestion = case.facts.ingestion
    if ingestion is not None and ingestion.state == model_pb2.INGESTION_STATE_FAILED:
        yield holds(DEGRADED, "IngestionFailed", ingestion.reason)
    have, least = len(case.serving), case.spec.scaling.min_replicas
    if 0 < have < least:
        yield holds(DEGRADED, "TooFewReplicas", f"{have} of at least {least} agents serve it")


def why_cold(case: ModelCase) -> str:
    """Why no agent takes requests for it, in words."""
    facts = case.facts
    if case.refusal is not None and not case.spec.ByteSize():
        return str(case.refusal)
    if case.is_tier_set_missing:
        return _missing(case)
    for node, each in case.failing:
        return f"on {node}: {each.reason}"
    ingestion = facts.ingestion
    if ingestion is not None and ingestion.state != model_pb2.INGESTION_STATE_DONE:
        return ingestion.reason or "it is brought in"
    for node, assignment in sorted(facts.assignments.items()):
        told = facts.residencies.get(node)
        return f"on {node}: {told.reason if told and told.reason else assignment.reason}"
    if not case.agents:
        return "no agent is healthy and takes new models"
    if not case.fitting:
        return f"no agent has the labels {dict(sorted(case.spec.agent_labels.items()))}"
    for node, each in case.in_memory:
        return f"asleep in memory of {node}: {each.reason}"
    if facts.scaling is not None and facts.scaling.reason:
        return facts.scaling.reason
    return "nobody asks for it"


def _missing(case: ModelCase) -> str:
    return f"there is no TierSet {case.spec.tier_set!r} in namespace {case.spec.ref.namespace}"
