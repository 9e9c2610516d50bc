"""The score: how long an agent would probably take to a request's first token, in seconds.

``score = alpha * cache_level - beta * kv_hit_rate + gamma * queue_length + delta * load_seconds``,
the lowest wins. Scores that differ by less than ``TIE_SECONDS`` are equal: then the agent that
holds the fewest models wins if it holds nothing of this one, then the one that runs the fewest
requests; of those that are left, sorted by a hash of their names, the seed counts one out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from lite_llm.contracts import ModelRef
from lite_llm.placement.facts import AgentFacts, Held
from lite_llm.placement.serving import Queue, Rank, idlest
from lite_llm.placement.view import ClusterView
from lite_llm.proto.v1.generate_pb2 import AgentScore, RoutingExplanation, ScoreWeights
from lite_llm.proto.v1.model_pb2 import ModelSpec

TIE_SECONDS = 0.05
NOMINAL_BYTES = 16 << 30  # of a model that nobody has held yet: it is the same for every agent


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What each term is worth, in seconds."""

    alpha: float = 0.1
    """Per cache level: little, as the way through the levels is counted by ``delta`` already."""
    beta: float = 2.0
    """For a prompt that is found in the prefix cache whole: the prefill that it saves."""
    gamma: float = 0.5
    """Per request that waits on the agent."""
    delta: float = 1.0
    """Per second of loading."""


DEFAULT_WEIGHTS = Weights()


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What matters about one request beyond its model; the default is of no request at all."""

    shunned: Collection[str] = ()
    """Agents that refused or failed it: they are chosen only where no other is."""
    digest: str = ""
    """Of the checkpoint that its answer began with; empty before that."""
    hits: Mapping[str, float] = field(default_factory=dict)
    """Share of its prompt that agents have seen lately, by node."""
    pending: Mapping[str, int] = field(default_factory=dict)
    """Requests on their way to agents, which these did not count yet, by node."""
    seed: int = 0
    """Of ties."""
    weights: Weights = DEFAULT_WEIGHTS


Key = tuple[bool, bool, int, int, int]
"""By which agents are chosen, the least first: whether it is shunned, whether it lacks the room for
what it would have to load, its score in units of ``TIE_SECONDS``, how many models it holds if none
of it is this one, and how many requests it runs."""


NOBODY: Key = (True, True, 1 << 62, 0, 0)


class Terms(NamedTuple):
    """Of one agent's score."""

    cache_level: int
    kv_hit_rate: float
    queue_length: int
    load_seconds: float

    def total(self, weights: Weights) -> float:
        """The score, in seconds."""
        return (
            weights.alpha * self.cache_level
            - weights.beta * self.kv_hit_rate
            + weights.gamma * self.queue_length
            + weights.delta * self.load_seconds
        )


def best_serving(
    view: ClusterView, model: ModelRef, wish: Wish, left_out: Collection[str]
) -> str | None:
    """The agent to send a request to, of those that serve ``model`` but for ``left_out``.

    It is the one that :func:`best` would choose, but few are looked at: all that the request has
    nothing to do with differ by their queues only, and these are sorted.
    """
    held_by, queue = view.held.get(model, {}), view.queues.get(model)
    special = wish.hits.keys() | wish.pending.keys() | set(wish.shunned)
    gamma = wish.weights.gamma
    groups: list[tuple[Key, Queue]] = []
    if queue is not None:
        for alike in idlest(queue, special | set(left_out)):
            waiting, running = alike[0][:2]
            score = round(gamma * waiting / TIE_SECONDS)
            if groups and score > groups[0][0][2]:
                break
            groups.append(((False, False, score, 0, running), alike))
    for node in held_by if queue is None else special & held_by.keys():
        held, agent = held_by[node], view.facts.get(node)
        if held.serves and agent and not agent.excluded and node not in left_out:
            if node in special:
                key = _key(view, agent, held, 0, 0, wish)
            else:
                score = round(gamma * agent.waiting / TIE_SECONDS)
                key = (False, False, score, 0, agent.running)
            rank = Rank(agent.waiting, agent.running, agent.salt, node)
            groups.append((key, [rank]))
    lowest = min((key for key, _ in groups), default=None)
    ties = [alike for key, alike in groups if key == lowest]
    if len(ties) == 1:
        return ties[0][wish.seed % len(ties[0])].node
    return _of_ties([(rank.salt, rank.node) for alike in ties for rank in alike], wish)


def best(
    view: ClusterView, model: ModelRef, candidates: Iterable[AgentFacts], wish: Wish
) -> AgentFacts | None:
    """The candidate to choose, or None of none."""
    spec, held_by = view.models[model], view.held.get(model, {})
    num_bytes, level = size_of(view, model), source_level(spec)
    delta, gamma = wish.weights.delta * (num_bytes or NOMINAL_BYTES), wish.weights.gamma
    offset = wish.weights.alpha * level
    special = held_by.keys() | wish.hits.keys() | wish.pending.keys() | set(wish.shunned)
    lowest, ties = NOBODY, list[tuple[int, str]]()
    num_models = dict(view.num_models.items())
    for agent in candidates:
        node = agent.node
        if node in special:
            key = _key(view, agent, held_by.get(node), num_bytes, level, wish)
        else:  # what most agents are, of a fleet of a thousand
            score = offset + delta * agent.seconds_per_byte[level] + gamma * agent.waiting
            lacks_room = agent.free_bytes < num_bytes and agent.capacity_bytes > 0
            rounded = round(score / TIE_SECONDS)
            if rounded > lowest[2] and lacks_room >= lowest[1] and not lowest[0]:
                continue
            key = (False, lacks_room, rounded, num_models.get(node, 0), agent.running)
        if key < lowest:
            lowest, ties = key, []
        if key == lowest:
            ties.append((agent.salt, node))
    chosen = _of_ties(ties, wish)
    return None if chosen is None else view.facts[chosen]


def _key(
    view: ClusterView,
    agent: AgentFacts,
    held: Held | None,
    num_bytes: int,
    source: int,
    wish: Wish,
) -> Key:
    terms = _terms(agent, held, num_bytes, source, wish)
    return (
        agent.node in wish.shunned,
        held is None and agent.free_bytes < num_bytes and agent.capacity_bytes > 0,
        round(terms.total(wish.weights) / TIE_SECONDS),
        view.num_models.get(agent.node, 0) if held is None else 0,
        agent.running + wish.pending.get(agent.node, 0),
    )


def _of_ties(ties: list[tuple[int, str]], wish: Wish) -> str | None:
    return sorted(ties)[wish.seed % len(ties)][1] if ties else None


def exclusion(view: ClusterView, model: ModelRef, agent: AgentFacts) -> str:
    """Why ``agent`` can't be chosen for ``model``; empty if it can."""
    if agent.excluded or agent.node in view.avoided:
        return agent.excluded or "does not answer"
    if 0 < agent.capacity_bytes < size_of(view, model):
        return "too little memory"
    for name, value in view.models[model].agent_labels.items():
        if agent.labels.get(name) != value:
            return f"is not {name}={value}"
    return ""


def able(view: ClusterView, model: ModelRef) -> list[AgentFacts]:
    """Agents that could load ``model``."""
    num_bytes, avoided = size_of(view, model), view.avoided
    labels = dict(view.models[model].agent_labels).items()
    return [
        agent
        for agent in view.facts.values()
        if not agent.excluded
        and agent.node not in avoided
        and (not agent.capacity_bytes or agent.capacity_bytes >= num_bytes)
        and (not labels or labels <= agent.labels.items())
    ]


def size_of(view: ClusterView, model: ModelRef) -> int:
    """Bytes of memory that it takes: as declared, or as agents tell; 0 while nobody knows."""
    return view.models[model].memory_bytes or view.sizes.get(model, 0)


def explained(view: ClusterView, model: ModelRef, wish: Wish) -> RoutingExplanation:
    """Every agent's score with its terms, the best first, those that can't be chosen last."""
    spec, held_by = view.models[model], view.held.get(model, {})
    num_bytes, level, weights = size_of(view, model), source_level(spec), wish.weights
    scores = []
    for node, agent in view.facts.items():
        terms = _terms(agent, held_by.get(node), num_bytes, level, wish)
        scores.append(
            AgentScore(
                node=node,
                score=terms.total(weights),
                **terms._asdict(),
                weights=ScoreWeights(
                    alpha=weights.alpha,
                    beta=weights.beta,
                    gamma=weights.gamma,
                    delta=weights.delta,
                ),
                excluded=exclusion(view, model, agent),
            )
        )
    scores.sort(key=lambda score: (bool(score.excluded), score.score, score.node))
    return RoutingExplanation(candidates=scores, view_revision=view.revision)


def source_level(spec: ModelSpec) -> int:
    """Of a model that an agent holds nothing of: a disk of the node's own, or an object store."""
    return 2 if spec.source.uri.startswith("file://") else 4


def _terms(agent: AgentFacts, held: Held | None, num_bytes: int, source: int, wish: Wish) -> Terms:
    level = source if held is None else held.level
    seconds = 0.0
    if level:
        seconds = (num_bytes or NOMINAL_BYTES) * agent.seconds_per_byte[level]
    waiting = agent.waiting + wish.pending.get(agent.node, 0)
    return Terms(level, wish.hits.get(agent.node, 0.0), waiting, seconds)
