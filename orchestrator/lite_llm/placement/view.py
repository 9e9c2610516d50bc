"""The fleet as one frozen value, made by pure functions from what the metadata store tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

import structlog
from google.protobuf.message import Message

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import Corrupt, InvalidName
from lite_llm.contracts.keyspace import (
    AgentKey,
    AliasKey,
    AssignmentKey,
    DoorKey,
    IngestionKey,
    Key,
    ModelKey,
    ResidencyKey,
    ScalingKey,
    parse_key,
)
from lite_llm.metastore import Deleted, Entry, Event, Snapshot, Written
from lite_llm.placement.facts import AgentFacts, Held, facts_of, held_of
from lite_llm.placement.serving import Queues, after_heartbeat, after_residency, queues_of
from lite_llm.placement.sharing import changed, shared
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.agent_pb2 import AgentStatus, Assignment, Residency
from lite_llm.proto.v1.model_pb2 import Alias, Ingestion, ModelSpec
from lite_llm.proto.v1.orchestrator_pb2 import DoorStatus, ScalingState
from lite_llm.wire import loads, ref_from_proto

log = structlog.get_logger(__name__)

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
    doors: Mapping[str, DoorStatus] = field(default_factory=dict)
    """What orchestrators see of requests, by their names."""
    aliases: Mapping[ModelRef, Alias] = field(default_factory=dict)
    named: Mapping[ModelRef, frozenset[ModelRef]] = field(default_factory=dict)
    """Further names that specs declare, with the models that they are of."""
    facts: Mapping[str, AgentFacts] = field(default_factory=dict)
    """Of ``agents``, for decisions."""
    held: Mapping[ModelRef, ByNode[Held]] = field(default_factory=dict)
    """Of ``residencies``, for decisions."""
    sizes: Mapping[ModelRef, int] = field(default_factory=dict)
    """Bytes of models of which some agent tells it: the most that any does."""
    num_models: Mapping[str, int] = field(default_factory=dict)
    """That agents hold something of or are to load, by node."""
    queues: Queues = field(default_factory=dict)
    """Who serves the models that many serve, least busy first."""
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
            return _with(view, event.revision, key, _value_of(key, entry))
        case Deleted(key, revision):
            return _with(view, revision, _key_of(key), None)


def snapshot(entries: Iterable[Entry], revision: int) -> ClusterView:
    """The view of exactly these entries."""
    models: dict[ModelRef, ModelSpec] = {}
    agents: dict[str, AgentStatus] = {}
    residencies: dict[ModelRef, dict[str, Residency]] = {}
    assignments: dict[ModelRef, dict[str, Assignment]] = {}
    ingestions: dict[ModelRef, Ingestion] = {}
    scalings: dict[ModelRef, ScalingState] = {}
    doors: dict[str, DoorStatus] = {}
    aliases: dict[ModelRef, Alias] = {}
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
            case DoorKey(name), DoorStatus() as door:
                doors[name] = door
            case AliasKey(model), Alias() as alias:
                aliases[model] = alias
    return view_of(
        revision,
        models=models,
        agents=agents,
        residencies=residencies,
        assignments=assignments,
        ingestions=ingestions,
        scalings=scalings,
        doors=doors,
        aliases=aliases,
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
    doors: Mapping[str, DoorStatus] | None = None,
    aliases: Mapping[ModelRef, Alias] | None = None,
) -> ClusterView:
    """The view of these messages."""
    residencies, assignments = residencies or {}, assignments or {}
    held_and_claimed = (*residencies.values(), *assignments.values())
    facts = {node: facts_of(agent) for node, agent in agents.items()}
    held = {
        model: {node: held_of(residency) for node, residency in by_node.items()}
        for model, by_node in residencies.items()
    }
    return ClusterView(
        revision,
        shared(models),
        shared(agents),
        shared({model: shared(by_node) for model, by_node in residencies.items()}),
        shared(assignments),
        shared(ingestions or {}),
        shared(scalings or {}),
        doors or {},
        aliases or {},
        named=_named(models),
        facts=shared(facts),
        held=shared({model: shared(by_node) for model, by_node in held.items()}),
        sizes=shared({model: size for model, nodes in held.items() if (size := _size(nodes))}),
        num_models=shared(Counter(node for by_node in held_and_claimed for node in by_node)),
        queues=queues_of(facts, held),
    )


def _with(view: ClusterView, revision: int, key: Key | None, value: Message | None) -> ClusterView:
    match key, value:
        case ModelKey(model), ModelSpec() | None:
            declared, models = view.models.get(model), changed(view.models, model, value)
            same = (declared.aliases if declared else []) == (value.aliases if value else [])
            named = view.named if same else _named(models)
            return replace(view, revision=revision, models=models, named=named)
        case AgentKey(node), AgentStatus() | None:
            agents = changed(view.agents, node, value)
            known, facts = view.facts.get(node), None if value is None else facts_of(value)
            if facts == known:  # most heartbeats tell nothing new
                return replace(view, revision=revision, agents=agents)
            return replace(
                view,
                revision=revision,
                agents=agents,
                facts=changed(view.facts, node, facts),
                queues=after_heartbeat(view.queues, view.held, known, facts),
            )
        case ResidencyKey(model, node), Residency() | None:
            residencies = _set_in(view.residencies, model, node, value)
            before, held = _in(view.held, model, node), None if value is None else held_of(value)
            if held == before:
                return replace(view, revision=revision, residencies=residencies)
            all_held, queues = _set_in(view.held, model, node, held), view.queues
            if (before is not None and before.serves) != (held is not None and held.serves):
                queues = after_residency(queues, model, all_held.get(model, {}), view.facts)
            return replace(
                view,
                revision=revision,
                residencies=residencies,
                held=all_held,
                sizes=_sized(view.sizes, all_held, model, before, held),
                num_models=_counted(view, view.residencies, model, node, value),
                queues=queues,
            )
        case AssignmentKey(model, node), Assignment() | None:
            return replace(
                view,
                revision=revision,
                assignments=_set_in(view.assignments, model, node, value),
                num_models=_counted(view, view.assignments, model, node, value),
            )
        case IngestionKey(model), Ingestion() | None:
            return replace(
                view, revision=revision, ingestions=changed(view.ingestions, model, value)
            )
        case ScalingKey(model), ScalingState() | None:
            return replace(view, revision=revision, scalings=changed(view.scalings, model, value))
        case DoorKey(name), DoorStatus() | None:
            return replace(view, revision=revision, doors=changed(view.doors, name, value))
        case AliasKey(alias), Alias() | None:
            return replace(view, revision=revision, aliases=changed(view.aliases, alias, value))
    return replace(view, revision=revision)


def _named(models: Mapping[ModelRef, ModelSpec]) -> Mapping[ModelRef, frozenset[ModelRef]]:
    named: dict[ModelRef, frozenset[ModelRef]] = {}
    for model, spec in models.items():
        for alias in spec.aliases:
            with suppress(InvalidName):  # a name that nothing can have is nobody's
                name = ModelRef.parse(alias, namespace=model.namespace)
                named[name] = named.get(name, frozenset()) | {model}
    return named


def _in(old: Mapping[ModelRef, ByNode[V]], model: ModelRef, node: str) -> V | None:
    by_node = old.get(model)
    return None if by_node is None else by_node.get(node)


def _set_in(
    old: Mapping[ModelRef, ByNode[V]], model: ModelRef, node: str, value: V | None
) -> Mapping[ModelRef, ByNode[V]]:
    by_node = changed(old.get(model, {}), node, value)
    return changed(old, model, by_node or None)


def _size(by_node: ByNode[Held]) -> int:
    return max((held.num_bytes for held in by_node.values()), default=0)


def _sized(
    old: Mapping[ModelRef, int],
    all_held: Mapping[ModelRef, ByNode[Held]],
    model: ModelRef,
    before: Held | None,
    now: Held | None,
) -> Mapping[ModelRef, int]:
    """Looks at all agents only where one that told the most tells less."""
    known, size = old.get(model, 0), now.num_bytes if now else 0
    if size > known:
        return changed(old, model, size)
    if before is None or not size < before.num_bytes == known:
        return old
    return changed(old, model, _size(all_held.get(model, {})) or None)


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
    return changed(view.num_models, node, count or None)


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
                return _about(spec, _is(spec.ref, model), entry.key)
            case AgentKey(node):
                agent = loads(entry.value, AgentStatus, where=entry.key)
                return _about(agent, agent.node == node, entry.key)
            case ResidencyKey(model, node):
                held = loads(entry.value, Residency, where=entry.key)
                named = held.node == node and _is(held.model, model)
                return _about(held, named, entry.key)
            case AssignmentKey(model, node):
                claim = loads(entry.value, Assignment, where=entry.key)
                named = claim.node == node and _is(claim.model, model)
                return _about(claim, named, entry.key)
            case IngestionKey(model):
                ingestion = loads(entry.value, Ingestion, where=entry.key)
                return _about(ingestion, _is(ingestion.model, model), entry.key)
            case ScalingKey(model):
                scaling = loads(entry.value, ScalingState, where=entry.key)
                return _about(scaling, _is(scaling.model, model), entry.key)
            case DoorKey(name):
                door = loads(entry.value, DoorStatus, where=entry.key)
                return _about(door, door.name == name, entry.key)
            case AliasKey(name):
                alias = loads(entry.value, Alias, where=entry.key)
                return _about(alias, _is(alias.ref, name) and _names_models(alias), entry.key)
    except Corrupt as error:
        log.warning("malformed value ignored", key=entry.key, error=error.message)
    return None


def _is(named: model_pb2.ModelRef, model: ModelRef) -> bool:
    return named.name == model.name and named.namespace == model.namespace


def _names_models(alias: Alias) -> bool:
    try:
        for field in ("target", "next", "previous"):
            if alias.HasField(field):
                ref_from_proto(getattr(alias, field))
    except InvalidName:
        return False
    return True


def _about(value: Message, named: bool, key: str) -> Message:
    if not named:
        raise Corrupt("the value names another thing than its key", where=key)
    return value
