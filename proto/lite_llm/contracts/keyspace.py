"""Every key in the metadata store, built and parsed here and nowhere else.

====================================================  ==============  ===========================
key below the root                                    value           the one writer
====================================================  ==============  ===========================
``models/{namespace}/{name}``                         ``ModelSpec``   operator, or the CLI
``tiersets/{namespace}/{name}``                       ``TierSetSpec`` operator, or the CLI
``agents/{node}``                                     ``AgentStatus`` that agent, under its lease
``residency/{namespace}/{name}/{node}``               ``Residency``   that agent, under its lease
``assignments/{namespace}/{name}/{node}``             ``Assignment``  orchestrators, by swap
``ingestions/{namespace}/{name}``                     ``Ingestion``   the orchestrator that ingests
``scaling/{namespace}/{name}``                        ``ScalingState`` orchestrators, by swap
``doors/{orchestrator}``                              ``DoorStatus``  that orchestrator, by lease
``aliases/{namespace}/{name}``                        ``Alias``       orchestrators, by swap
``leaders/{role}``                                    holder's name   whoever holds the lease
====================================================  ==============  ===========================
"""

from __future__ import annotations

from dataclasses import dataclass

from lite_llm.contracts.errors import InvalidName
from lite_llm.contracts.identity import ModelRef, checked_label, checked_node

ROOT = "/lite-llm/v1/"


@dataclass(frozen=True, slots=True)
class ModelKey:
    """Of a ``ModelSpec``."""

    model: ModelRef


@dataclass(frozen=True, slots=True)
class TierSetKey:
    """Of a ``TierSetSpec``."""

    tier_set: ModelRef


@dataclass(frozen=True, slots=True)
class AgentKey:
    """Of an ``AgentStatus``."""

    node: str


@dataclass(frozen=True, slots=True)
class ResidencyKey:
    """Of a ``Residency``."""

    model: ModelRef
    node: str


@dataclass(frozen=True, slots=True)
class AssignmentKey:
    """Of an ``Assignment``."""

    model: ModelRef
    node: str


@dataclass(frozen=True, slots=True)
class IngestionKey:
    """Of an ``Ingestion``."""

    model: ModelRef


@dataclass(frozen=True, slots=True)
class ScalingKey:
    """Of a ``ScalingState``."""

    model: ModelRef


@dataclass(frozen=True, slots=True)
class DoorKey:
    """Of a ``DoorStatus``."""

    orchestrator: str


@dataclass(frozen=True, slots=True)
class AliasKey:
    """Of an ``Alias``."""

    alias: ModelRef


@dataclass(frozen=True, slots=True)
class LeaderKey:
    """Of the name of a role's holder."""

    role: str


Key = (
    ModelKey
    | TierSetKey
    | AgentKey
    | ResidencyKey
    | AssignmentKey
    | IngestionKey
    | ScalingKey
    | DoorKey
    | AliasKey
    | LeaderKey
)

MODELS = ROOT + "models/"
TIER_SETS = ROOT + "tiersets/"
AGENTS = ROOT + "agents/"
RESIDENCY = ROOT + "residency/"
ASSIGNMENTS = ROOT + "assignments/"
INGESTIONS = ROOT + "ingestions/"
SCALING = ROOT + "scaling/"
DOORS = ROOT + "doors/"
ALIASES = ROOT + "aliases/"
LEADERS = ROOT + "leaders/"


def key_of(key: Key) -> str:
    """The string under which ``key`` is stored."""
    match key:
        case ModelKey(model):
            return f"{MODELS}{model}"
        case TierSetKey(tier_set):
            return f"{TIER_SETS}{tier_set}"
        case AgentKey(node):
            return f"{AGENTS}{checked_node(node)}"
        case ResidencyKey(model, node):
            return f"{RESIDENCY}{model}/{checked_node(node)}"
        case AssignmentKey(model, node):
            return f"{ASSIGNMENTS}{model}/{checked_node(node)}"
        case IngestionKey(model):
            return f"{INGESTIONS}{model}"
        case ScalingKey(model):
            return f"{SCALING}{model}"
        case DoorKey(orchestrator):
            return f"{DOORS}{checked_label(orchestrator, 'orchestrator')}"
        case AliasKey(alias):
            return f"{ALIASES}{alias}"
        case LeaderKey(role):
            return f"{LEADERS}{checked_label(role, 'role')}"


def parse_key(text: str) -> Key:
    """The inverse of :func:`key_of`; :class:`InvalidName` for anything that it can't have made."""
    if text.startswith(ROOT):
        match text.removeprefix(ROOT).split("/"):
            case ["models", namespace, name]:
                return ModelKey(ModelRef(namespace, name))
            case ["tiersets", namespace, name]:
                return TierSetKey(ModelRef(namespace, name))
            case ["agents", node]:
                return AgentKey(checked_node(node))
            case ["residency", namespace, name, node]:
                return ResidencyKey(ModelRef(namespace, name), checked_node(node))
            case ["assignments", namespace, name, node]:
                return AssignmentKey(ModelRef(namespace, name), checked_node(node))
            case ["ingestions", namespace, name]:
                return IngestionKey(ModelRef(namespace, name))
            case ["scaling", namespace, name]:
                return ScalingKey(ModelRef(namespace, name))
            case ["doors", orchestrator]:
                return DoorKey(checked_label(orchestrator, "orchestrator"))
            case ["aliases", namespace, name]:
                return AliasKey(ModelRef(namespace, name))
            case ["leaders", role]:
                return LeaderKey(checked_label(role, "role"))
    raise InvalidName(
        f"{text[:200]!r} is not a key of ours", where="key", remedy=f"keys live below {ROOT}"
    )


def residency_of(model: ModelRef) -> str:
    """Prefix of one model's residency on every agent."""
    return f"{RESIDENCY}{model}/"


def assignments_of(model: ModelRef) -> str:
    """Prefix of one model's assignments to every agent."""
    return f"{ASSIGNMENTS}{model}/"
