"""Messages as stored values, and contracts as messages.

A stored value is canonical JSON: the same message gives the same bytes, so that compare-and-swap
works and a person can read it with ``etcdctl``. Fields of a newer version are ignored.
"""

from __future__ import annotations

import json
from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from lite_llm.contracts import (
    DEFAULT_NAMESPACE,
    Budget,
    Medium,
    ModelRef,
    ModelState,
    Placement,
    Tier,
    TierMode,
    TierSet,
)
from lite_llm.contracts.errors import Corrupt
from lite_llm.proto.v1 import model_pb2
from lite_llm.wire.canonical import built

M = TypeVar("M", bound=Message)


def dumps(message: Message) -> bytes:
    """Canonical JSON: sorted keys, proto field names, no spaces, defaults left out, UTF-8."""
    fields = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def loads(value: bytes, kind: type[M], *, where: str) -> M:
    """The message in a stored value; :class:`Corrupt` names the key ``where`` it lies."""
    if (message := built(value, kind)) is not None:
        return message
    message = kind()
    try:
        if not value.lstrip().startswith(b"{"):  # the parser takes lists and strings for empty
            raise json_format.ParseError("it is not a JSON object")
        json_format.Parse(value, message, ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(
            f"the value of {where} is no {kind.DESCRIPTOR.name}: {error}",
            where=where,
            remedy="delete the key; its one writer writes it again",
        ) from error
    return message


def ref_to_proto(ref: ModelRef) -> model_pb2.ModelRef:
    """Of a model's name."""
    return model_pb2.ModelRef(namespace=ref.namespace, name=ref.name)


def ref_from_proto(message: model_pb2.ModelRef) -> ModelRef:
    """Raises ``InvalidName``; an absent namespace is the default one."""
    return ModelRef(message.namespace or DEFAULT_NAMESPACE, message.name)


def state_to_proto(state: ModelState) -> model_pb2.ModelState.ValueType:
    """Of a model's state."""
    return model_pb2.ModelState.Value(f"MODEL_STATE_{state.name}")


def state_from_proto(value: int) -> ModelState:
    """Unspecified, or a newer version's word, counts as Init: nothing is known to be usable."""
    return list(ModelState)[value - 1] if 1 <= value <= len(ModelState) else ModelState.INIT


def medium_to_proto(medium: Medium) -> model_pb2.Medium.ValueType:
    """Of a medium; the wire counts from 1."""
    return model_pb2.Medium.Value(f"MEDIUM_{medium.name}")


def medium_from_proto(value: int) -> Medium:
    """Unspecified, or unknown, counts as the farthest."""
    return Medium(value - 1) if 1 <= value <= len(Medium) else Medium.OBJECT_STORE


def placement_from_proto(value: int) -> Placement:
    """Unspecified, or unknown, counts as the archive: the farthest, which claims no memory."""
    return Placement(value - 1) if 1 <= value <= len(Placement) else Placement.ARCHIVE


def mode_to_proto(mode: TierMode | None) -> model_pb2.TierMode.ValueType:
    """Of a TierSet's mode; None is unspecified."""
    return model_pb2.TierMode.Value(f"TIER_MODE_{mode.name if mode else 'UNSPECIFIED'}")


def mode_from_proto(value: int) -> TierMode | None:
    """None when unspecified."""
    return list(TierMode)[value - 1] if 1 <= value <= len(TierMode) else None


def tier_set_to_proto(ref: ModelRef, tier_set: TierSet) -> model_pb2.TierSetSpec:
    """Of a TierSet under its name."""
    tiers = [
        model_pb2.Tier(
            **{name: value for name, value in vars(tier).items() if name != "placement"},
            placement=model_pb2.Placement.Value(f"PLACEMENT_{tier.placement.name}"),
        )
        for tier in tier_set.tiers
    ]
    limits = {name: value for name, value in vars(tier_set.budget).items() if value}
    return model_pb2.TierSetSpec(
        ref=ref_to_proto(ref),
        tiers=tiers,
        top_k_tiers=tier_set.top_k_tiers,
        default_mode=mode_to_proto(tier_set.default_mode),
        min_mode=mode_to_proto(tier_set.min_mode),
        max_mode=mode_to_proto(tier_set.max_mode),
        budget=model_pb2.Budget(**limits),
        routing_seed=tier_set.routing_seed.to_bytes(16, "little"),
    )


def tier_set_from_proto(message: model_pb2.TierSetSpec) -> TierSet:
    """Raises ``InvalidSettings`` or ``InvalidName`` for what no TierSet can be."""
    return TierSet(
        tiers=tuple(_tier_from_proto(tier) for tier in message.tiers),
        top_k_tiers=message.top_k_tiers or 1,
        default_mode=mode_from_proto(message.default_mode) or TierMode.BALANCED,
        min_mode=mode_from_proto(message.min_mode) or TierMode.FAST,
        max_mode=mode_from_proto(message.max_mode) or TierMode.MAX,
        budget=budget_from_proto(message.budget),
        routing_seed=int.from_bytes(message.routing_seed, "little"),
    )


def budget_from_proto(message: model_pb2.Budget) -> Budget:
    """Zero on the wire is no limit."""
    return Budget(
        first_token_ms=message.first_token_ms or None,
        per_token_ms=message.per_token_ms or None,
        micro_cost_per_1k_tokens=message.micro_cost_per_1k_tokens or None,
    )


def _tier_from_proto(message: model_pb2.Tier) -> Tier:
    return Tier(
        id=message.id,
        name=message.name,
        parameter_budget=message.parameter_budget,
        groups=message.groups,
        experts_per_group=message.experts_per_group,
        placement=placement_from_proto(message.placement),
        top_k_groups=message.top_k_groups or 1,
        top_k_experts=message.top_k_experts or 1,
        dtype=message.dtype,
    )
