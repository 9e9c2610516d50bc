"""The fleet as one frozen value, made by pure functions from what the metadata store tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
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
    parse_key,
)
from lite_llm.metastore import Deleted, Entry, Event, Snapshot, Written
from lite_llm.placement.facts import AgentFacts, Held, facts_of, held_of
from lite_llm.proto.v1.agent_pb2 import AgentStatus, Assignment, Residency
from lite_llm.proto.v1.model_pb2 import Ingestion, ModelSpec
from lite_llm.proto.v1.orchestrator_pb2 import ScalingState
from lite_llm.wire import loads, ref_to_proto

log = structlog.get_logger(__name__)

K = TypeVar("K")
V = TypeVar("V")
ByNode = Mapping[str, V]


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What is declared, who lives, and what lies where, as it stood at ``revision``.

    A new view shares everything unchanged with the one before: what ``is`` the same did not change.
    The messages in it are never modified.
    """

    revision: int = 0
    """Of the metadata store; 0 before the first snapshot."""
    models: Mapping[ModelRef, ModelSpec] = field(default_factory=dict)
    agents: Mapping[str, AgentStatus] = field(default_factory=dict)
    """By node."""
    residencies: Mapping[ModelRef, ByNode[Residency]] = field(default_factory=dict)
    assignments: Mapping[ModelRef, ByNode[Assignment]] = field(default_factory=dict)
    """Loads that an orchestrator has claimed."""
    ingestions: Mapping[ModelRef, Ingestion] = field(default_factory=dict)
    """What became of models' sources, where an orchestrator brings them in."""
    scalings: Mapping[ModelRef, ScalingState] = field(default_factory=dict)
    """How many agents models have, and why."""
    facts: Mapping[str, AgentFacts] = field(default_factory=dict)
    """Of ``agents``, for decisions."""
    held: Mapping[ModelRef, ByNode[Held]] = field(default_factory=dict)
    """Of ``residencies``, for decisions."""
    num_models: Mapping[str, int] = field(default_factory=dict)
    """That agents hold something of or are to load, by node."""
    avoided: frozenset[str] = frozenset()
    """Nodes of agents that this orchestrator can't talk to for now; no business of the store's."""

    @property
    def is_synced(self) -> bool:
        """Whether it shows the store at all."""
        return self.revision > 0


def advanced(view: ClusterView, event: Event) -> ClusterView:
    """The view after ``event``. A malformed value is logged and counts as absent."""
    match event:
        case Snapshot(entries, revision):
            return replace(snapshot(entries, revision), avoided=view.avoided)
        case Written(entry):
            key = _key_of(entry.key)
            return replace(_with(view, key, _value_of(key, entry)), revision=event.revision)
        case Deleted(key, revision):
            return replace(_with(view, _key_of(key), None), revision=revision)


def snapshot(entries: Iterable[Entry], revision: int) -> ClusterView:
    """The view of exactly these entries."""
    models: dict[ModelRef, ModelSpec] = {}
    agents: dict[str, AgentStatus] = {}
    residencies: dict[ModelRef, dict[str, Residency]] = {}
    assignments: dict[ModelRef, dict[str, Assignment]] = {}
    ingestions: dict[ModelRef, Ingestion] = {}
    scalings: dict[ModelRef, ScalingState] = {}
    for entry in entries:
        key = _key_of(entry.key)
        match key, _value_of(key, entry):
            case ModelKey(model), ModelSpec() as spec:
                models[model] = spec
            case AgentKey(node), AgentStatus() as agent:
                agents[node] = agent
            case ResidencyKey(model, node), Residency() as residency:
                residencies.setdefault(model, {})[node] = residency
            case AssignmentKey(model, node), Assignment() as assignment:
                assignments.setdefault(model, {})[node] = assignment
            case IngestionKey(model), Ingestion() as ingestion:
                ingestions[model] = ingestion
            case ScalingKey(model), ScalingState() as scaling:
                scalings[model] = scaling
    return view_of(
        revision,
        models=models,
        agents=agents,
        residencies=residencies,
        assignments=assignments,
        ingestions=ingestions,
        scalings=scalings,
    )


def view_of(
    revision: int,
    *,
    models: Mapping[ModelRef, ModelSpec],
    agents: Mapping[str, AgentStatus],
    residencies: Mapping[ModelRef, ByNode[Residency]] | None = None,
    assignments: Mapping[ModelRef, ByNode[Assignment]] | None = None,
    ingestions: Mapping[ModelRef, Ingestion] | None = None,
    scalings: Mapping[ModelRef, ScalingState] | None = None,
) -> ClusterView:
    """The view of these messages."""
    residencies, assignments = residencies or {}, assignments or {}
    held_and_claimed = (*residencies.values(), *assignments.values())
    return ClusterView(
        revision,
        models,
        agents,
        residencies,
        assignments,
        ingestions or {},
        scalings or {},
        facts={node: facts_of(agent) for node, agent in agents.items()},
        held={
            model: {node: held_of(residency) for node, residency in by_node.items()}
            for model, by_node in residencies.items()
        },
        num_models=Counter(node for by_node in held_and_claimed for node in by_node),
    )


def _with(view: ClusterView, key: Key | None, value: Message | None) -> ClusterView:
    match key, value:
        case ModelKey(model), ModelSpec() | None:
            return replace(view, models=_set(view.models, model, value))
        case AgentKey(node), AgentStatus() | None:
            facts = None if value is None else facts_of(value)
            return replace(
                view,
                agents=_set(view.agents, node, value),
                facts=_set(view.facts, node, facts),
            )
        case ResidencyKey(model, node), Residency() | None:
            held = None if value is None else held_of(value)
            return replace(
                view,
                residencies=_set_in(view.residencies, model, node, value),
                held=_set_in(view.held, model, node, held),
                num_models=_counted(view, view.residencies, model, node, value),
            )
        case AssignmentKey(model, node), Assignment() | None:
            return replace(
                view,
                assignments=_set_in(view.assignments, model, node, value),
                num_models=_counted(view, view.assignments, model, node, value),
            )
        case IngestionKey(model), Ingestion() | None:
            return replace(view, ingestions=_set(view.ingestions, model, value))
        case ScalingKey(model), ScalingState() | None:
            return replace(view, scalings=_set(view.scalings, model, value))
    return view


def _set(old: Mapping[K, V], key: K, value: V | None) -> Mapping[K, V]:
    new = dict(old)
    if value is None:
        new.pop(key, None)
    else:
        new[key] = value
    return new


def _set_in(
    old: Mapping[ModelRef, ByNode[V]], model: ModelRef, node: str, value: V | None
) -> Mapping[ModelRef, ByNode[V]]:
    by_node = _set(old.get(model, {}), node, value)
    return _set(old, model, by_node or None)


def _counted(
    view: ClusterView,
    old: Mapping[ModelRef, ByNode[Message]],
    model: ModelRef,
    node: str,
    value: Message | None,
) -> Mapping[str, int]:
    change = (value is not None) - (node in old.get(model, {}))
    if not change:
        return view.num_models
    count = view.num_models.get(node, 0) + change
    return _set(view.num_models, node, count or None)


def _key_of(text: str) -> Key | None:
    try:
        return parse_key(text)
    except InvalidName as error:
        log.warning("foreign key ignored", key=text, error=error.message)
        return None


def _value_of(key: Key | None, entry: Entry) -> Message | None:
    """The message in ``entry``; None if it is malformed, or of no interest to the view."""
    try:
        match key:
            case ModelKey(model):
                spec = loads(entry.value, ModelSpec, where=entry.key)
                return _about(spec, spec.ref == ref_to_proto(model), entry.key)
            case AgentKey(node):
                agent = loads(entry.value, AgentStatus, where=entry.key)
                return _about(agent, agent.node == node, entry.key)
            case ResidencyKey(model, node):
                held = loads(entry.value, Residency, where=entry.key)
                named = held.node == node and held.model == ref_to_proto(model)
                return _about(held, named, entry.key)
            case AssignmentKey(model, node):
                claim = loads(entry.value, Assignment, where=entry.key)
                named = claim.node == node and claim.model == ref_to_proto(model)
                return _about(claim, named, entry.key)
            case IngestionKey(model):
                ingestion = loads(entry.value, Ingestion, where=entry.key)
                return _about(ingestion, ingestion.model == ref_to_proto(model), entry.key)
            case ScalingKey(model):
                scaling = loads(entry.value, ScalingState, where=entry.key)
                return _about(scaling, scaling.model == ref_to_proto(model), entry.key)
    except Corrupt as error:
        log.warning("malformed value ignored", key=entry.key, error=error.message)
    return None


def _about(value: Message, named: bool, key: str) -> Message:
    if not named:
        raise Corrupt("the value names another thing than its key", where=key)
    return value
