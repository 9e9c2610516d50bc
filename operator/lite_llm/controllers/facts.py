"""What the metadata store tells of models: intent as stored, and what agents made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from google.protobuf.message import Message

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import Corrupt, InvalidName
from lite_llm.contracts.keyspace import (
    AgentKey,
    AssignmentKey,
    IngestionKey,
    Key,
    ModelKey,
    ResidencyKey,
    ScalingKey,
    TierSetKey,
    parse_key,
)
from lite_llm.controllers.specs import MODELS, TIER_SETS, ResourceName
from lite_llm.metastore import Deleted, Entry, Snapshot, Written
from lite_llm.metastore import Event as StoreEvent
from lite_llm.proto.v1.agent_pb2 import AgentStatus, Assignment, Residency
from lite_llm.proto.v1.model_pb2 import Ingestion
from lite_llm.proto.v1.orchestrator_pb2 import ScalingState
from lite_llm.wire import loads

log = structlog.get_logger(__name__)

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Usable:
    """An agent that takes models."""

    labels: Mapping[str, str]


@dataclass(slots=True)
class ModelFacts:
    """Of one model, by node where it is an agent's."""

    residencies: dict[str, Residency] = field(default_factory=dict)
    assignments: dict[str, Assignment] = field(default_factory=dict)
    ingestion: Ingestion | None = None
    scaling: ScalingState | None = None


NOTHING = ModelFacts()


class Facts:
    """The store, as far as :meth:`observe` was told; one task tells and reads."""

    def __init__(self) -> None:
        self.intents: dict[str, Entry] = {}
        """What is stored of specs, by key."""
        self.models: dict[ModelRef, ModelFacts] = {}
        self.agents: dict[str, Usable] = {}
        """Those that take models, by node."""

    def observe(self, event: StoreEvent) -> set[ResourceName] | None:
        """Take ``event`` in; whose view it changed, or None where it may be everybody's."""
        match event:
            case Snapshot(entries):
                self.intents, self.models, self.agents = {}, {}, {}
                for entry in entries:
                    self._written(entry)
                return None
            case Written(entry):
                return self._written(entry)
            case Deleted(key):
                return self._deleted(key)

    @staticmethod
    def name_of(key: str) -> ResourceName | None:
        """Of the object whose intent lies at ``key``; None where no intent does."""
        match parsed := _key(key):
            case ModelKey(ref) | TierSetKey(ref):
                return _name(parsed, ref)
        return None

    def of(self, ref: ModelRef | None) -> ModelFacts:
        """Of one model."""
        return self.models.get(ref, NOTHING) if ref else NOTHING

    def _written(self, entry: Entry) -> set[ResourceName] | None:
        key = _key(entry.key)
        match key:
            case ModelKey(ref) | TierSetKey(ref):
                self.intents[entry.key] = entry
                return {_name(key, ref)}
            case AgentKey(node):
                return self._agent(node, _read(entry, AgentStatus))
            case ResidencyKey(ref, node):
                return self._put(ref, "residencies", node, _read(entry, Residency))
            case AssignmentKey(ref, node):
                return self._put(ref, "assignments", node, _read(entry, Assignment))
            case IngestionKey(ref):
                self._facts(ref).ingestion = _read(entry, Ingestion)
                return {_model(ref)}
            case ScalingKey(ref):
                self._facts(ref).scaling = _read(entry, ScalingState)
                return {_model(ref)}
        return set()

    def _deleted(self, text: str) -> set[ResourceName] | None:
        key = _key(text)
        match key:
            case ModelKey(ref) | TierSetKey(ref):
                self.intents.pop(text, None)
                return {_name(key, ref)}
            case AgentKey(node):
                return self._agent(node, None)
            case ResidencyKey(ref, node):
                return self._put(ref, "residencies", node, None)
            case AssignmentKey(ref, node):
                return self._put(ref, "assignments", node, None)
            case IngestionKey(ref):
                self._facts(ref).ingestion = None
                return self._tidied(ref)
            case ScalingKey(ref):
                self._facts(ref).scaling = None
                return self._tidied(ref)
        return set()

    def _agent(self, node: str, status: AgentStatus | None) -> set[ResourceName] | None:
        """Most heartbeats change nothing that a model's status tells."""
        before = self.agents.pop(node, None)
        if status is not None and status.health.healthy and not status.draining:
            self.agents[node] = Usable(dict(status.labels))
        return set() if self.agents.get(node) == before else None

    def _put(self, ref: ModelRef, what: str, node: str, value: Message | None) -> set[ResourceName]:
        known: dict[str, Message] = getattr(self._facts(ref), what)
        if value is None:
            known.pop(node, None)
        else:
            known[node] = value
        return self._tidied(ref)

    def _facts(self, ref: ModelRef) -> ModelFacts:
        return self.models.setdefault(ref, ModelFacts())

    def _tidied(self, ref: ModelRef) -> set[ResourceName]:
        if self.models[ref] == NOTHING:
            del self.models[ref]
        return {_model(ref)}


def _key(text: str) -> Key | None:
    try:
        return parse_key(text)
    except InvalidName:
        return None  # of a newer version, or somebody else's


def _read(entry: Entry, kind: type[M]) -> M | None:
    """None for a malformed value, which then counts as absent."""
    try:
        return loads(entry.value, kind, where=entry.key)
    except Corrupt as error:
        log.warning("malformed value ignored", key=entry.key, error=str(error))
        return None


def _model(ref: ModelRef) -> ResourceName:
    return ResourceName(MODELS, ref.namespace, ref.name)


def _name(key: Key, ref: ModelRef) -> ResourceName:
    plural = MODELS if isinstance(key, ModelKey) else TIER_SETS
    return ResourceName(plural, ref.namespace, ref.name)
