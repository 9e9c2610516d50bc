"""From custom resources to what is stored. Pure: equal objects give equal messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self

from lite_llm.contracts import Budget, ModelRef, Placement, Tier, TierMode, TierSet
from lite_llm.contracts.errors import InvalidName, Unsupported
from lite_llm.contracts.keyspace import ModelKey, TierSetKey, key_of
from lite_llm.contracts.resources import parse_size
from lite_llm.proto.v1 import model_pb2
from lite_llm.wire import ref_to_proto
from lite_llm.wire.values import tier_set_to_proto

GROUP = "lite-llm.dev"
VERSION = "v1alpha1"
MODELS: Plural = "litellmmodels"
TIER_SETS: Plural = "tiersets"
KINDS: Mapping[Plural, str] = {MODELS: "LiteLLMModel", TIER_SETS: "TierSet"}

Plural = Literal["litellmmodels", "tiersets"]
Body = Mapping[str, Any]
"""An object as the API server tells it."""

_KEEP_WARM = {"DRAM": model_pb2.MEDIUM_DRAM, "NVMe": model_pb2.MEDIUM_NVME}


class ResourceName(NamedTuple):
    """A custom resource by its name in Kubernetes, which may be longer than ours may be."""

    plural: Plural
    namespace: str
    name: str

    @classmethod
    def of(cls, plural: Plural, body: Body) -> Self:
        """Of an object as the API server tells it."""
        return cls(plural, body["metadata"]["namespace"], body["metadata"]["name"])

    def __str__(self) -> str:
        return f"{self.plural}/{self.namespace}/{self.name}"

    @property
    def ref(self) -> ModelRef | None:
        """Its name as ours; None if it can't be one."""
        try:
            return ModelRef(self.namespace, self.name)
        except InvalidName:
            return None

    @property
    def key(self) -> str | None:
        """The key under which it is stored; None if its name can't be ours."""
        if (ref := self.ref) is None:
            return None
        return key_of(ModelKey(ref) if self.plural == MODELS else TierSetKey(ref))


def model_spec(body: Body) -> model_pb2.ModelSpec:
    """The spec of a ``LiteLLMModel``; the API server has validated and defaulted its fields.

    Raises ``InvalidName`` for an object whose name is longer than ours may be, ``Unsupported`` for
    a policy that no agent could keep.
    """
    metadata, spec = body["metadata"], body["spec"]
    scaling, cache, security = (spec.get(part, {}) for part in ("scaling", "cache", "security"))
    if security.get("encryption") == "Required":
        raise Unsupported(
            "no agent can read checkpoints that are encrypted at rest",
            where="spec.security.encryption",
            remedy="write Optional, or keep the store itself encrypted",
        )
    memory = spec.get("resources", {}).get("memory")
    return model_pb2.ModelSpec(
        ref=ref_to_proto(ModelRef(metadata["namespace"], metadata["name"])),
        source=model_pb2.ModelSource(
            uri=spec["source"]["uri"], revision=spec["source"].get("revision", "")
        ),
        backend=spec.get("backend", ""),
        profile=spec.get("profile", ""),
        tier_set=spec.get("tierSetRef", {}).get("name", ""),
        scaling=model_pb2.Scaling(
            min_replicas=scaling.get("minReplicas", 0),
            max_replicas=scaling.get("maxReplicas", 0),
            target_queue_length=scaling.get("targetQueueLength", 0),
            idle_seconds=scaling.get("idleSeconds", 0),
            floors=map(_floor, scaling.get("floors", ())),
            up_cooldown_seconds=scaling.get("upCooldownSeconds", 0),
            down_cooldown_seconds=scaling.get("downCooldownSeconds", 0),
            replica_requests=scaling.get("replicaRequests", 0),
        ),
        pinned_tiers=cache.get("pinnedTiers", ()),
        aliases=spec.get("aliases", ()),
        version=spec.get("version", ""),
        require_signature=security.get("signature") == "Required",
        generation=metadata["generation"],
        agent_labels=spec.get("placement", {}).get("agentLabels", {}),
        memory_bytes=parse_size(memory) if memory else 0,
        keep_warm=_KEEP_WARM.get(cache.get("keepWarm", ""), model_pb2.MEDIUM_UNSPECIFIED),
        tenants=spec.get("access", {}).get("tenants", ()),
    )


def _floor(told: Body) -> model_pb2.ScheduledFloor:
    return model_pb2.ScheduledFloor(
        days=told.get("days", ""),
        start=told["start"],
        end=told["end"],
        zone=told.get("zone", ""),
        min_replicas=told["minReplicas"],
    )


def tier_set(body: Body) -> TierSet:
    """Of a ``TierSet``; raises ``InvalidSettings`` for what the schema's rules would refuse."""
    spec, budget = body["spec"], body["spec"].get("budget", {})
    return TierSet(
        tiers=tuple(map(_tier, spec["tiers"])),
        top_k_tiers=spec.get("topKTiers", 1),
        default_mode=TierMode(spec.get("defaultMode", "Balanced").lower()),
        min_mode=TierMode(spec.get("minMode", "Fast").lower()),
        max_mode=TierMode(spec.get("maxMode", "Max").lower()),
        budget=Budget(
            first_token_ms=budget.get("firstTokenMilliseconds") or None,
            per_token_ms=budget.get("perTokenMilliseconds") or None,
            micro_cost_per_1k_tokens=budget.get("microCostPer1kTokens") or None,
        ),
        routing_seed=int(spec.get("routingSeed", "0"), 16),
    )


def tier_set_spec(body: Body) -> model_pb2.TierSetSpec:
    """The spec of a ``TierSet``, as :func:`tier_set` reads it."""
    metadata = body["metadata"]
    ref = ModelRef(metadata["namespace"], metadata["name"])
    message = tier_set_to_proto(ref, tier_set(body))
    message.generation = metadata["generation"]
    return message


def _tier(told: Body) -> Tier:
    return Tier(
        id=told["id"],
        name=told["name"],
        parameter_budget=told.get("parameterBudget", 0),
        groups=told["groups"],
        experts_per_group=told["expertsPerGroup"],
        placement=Placement[told["placement"].upper()],
        top_k_groups=told.get("topKGroups", 1),
        top_k_experts=told.get("topKExperts", 1),
        dtype=told.get("dtype", ""),
    )
