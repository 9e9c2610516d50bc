"""The score: how long an agent would probably take to a request's first token, in seconds.

``score = alpha * cache_level - beta * kv_hit_rate + gamma * queue_length + delta * load_seconds``,
the lowest wins. Scores that differ by less than ``TIE_SECONDS`` are equal: then the agent that
holds the fewest models wins if it holds nothing of this one, then the one that runs the fewest
requests, then one by a seeded hash of its name.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from lite_llm.contracts import ModelRef
from lite_llm.placement.facts import AgentFacts, Held
from lite_llm.placement.view import ClusterView
from lite_llm.proto.v1.generate_pb2 import AgentScore, RoutingExplanation, ScoreWeights
from lite_llm.proto.v1.model_pb2 import ModelSpec

TIE_SECONDS = 0.05
NOMINAL_BYTES = 16 << 30  # of a model that nobody has held yet: it is the same for every agent
MASK = (1 << 64) - 1


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


def best(
    view: ClusterView, model: ModelRef, candidates: Iterable[AgentFacts], wish: Wish
) -> AgentFacts | None:
    """The candidate to choose, or None of none."""
    spec, held_by = view.models[model], view.held.get(model, {})
    num_bytes, level = _bytes_of(held_by), source_level(spec)
    gamma, special = wish.weights.gamma, wish.hits.keys() | wish.pending.keys()
    chosen, lowest, least = None, math.inf, None
    for agent in candidates:
        held = held_by.get(agent.node)
        if held is None or held.level or agent.node in special:
            terms = _terms(agent, held, num_bytes, level, wish)
            rounded = round(terms.total(wish.weights) / TIE_SECONDS)
        else:  # what most agents are: they differ in their queues
            rounded = round(gamma * agent.waiting / TIE_SECONDS)
        is_last = agent.node in wish.shunned
        if rounded > lowest and least is not None and is_last >= least[0] and not least[1]:
            continue
        key = (
            is_last,
            held is None and agent.free_bytes < num_bytes and agent.capacity_bytes > 0,
            rounded,
            view.num_models.get(agent.node, 0) if held is None else 0,
            agent.running + wish.pending.get(agent.node, 0),
            (agent.salt ^ wish.seed) * 0x9E3779B97F4A7C15 & MASK,
        )
        if least is None or key < least:
            chosen, lowest, least = agent, rounded, key
    return chosen


def exclusion(view: ClusterView, model: ModelRef, agent: AgentFacts) -> str:
    """Why ``agent`` can't be chosen for ``model``; empty if it can."""
    if agent.excluded or agent.node in view.avoided:
        return agent.excluded or "does not answer"
    if 0 < agent.capacity_bytes < _bytes_of(view.held.get(model, {})):
        return "too little memory"
    return ""


def able(view: ClusterView, model: ModelRef) -> list[AgentFacts]:
    """Agents that could load ``model``."""
    num_bytes, avoided = _bytes_of(view.held.get(model, {})), view.avoided
    return [
        agent
        for agent in view.facts.values()
        if not agent.excluded
        and agent.node not in avoided
        and (not agent.capacity_bytes or agent.capacity_bytes >= num_bytes)
    ]


def explained(view: ClusterView, model: ModelRef, wish: Wish) -> RoutingExplanation:
    """Every agent's score with its terms, the best first, those that can't be chosen last."""
    spec, held_by = view.models[model], view.held.get(model, {})
    num_bytes, level, weights = _bytes_of(held_by), source_level(spec), wish.weights
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


def _bytes_of(held_by: Mapping[str, Held]) -> int:
    return max((held.num_bytes for held in held_by.values()), default=0)


def _terms(agent: AgentFacts, held: Held | None, num_bytes: int, source: int, wish: Wish) -> Terms:
    level = source if held is None else held.level
    seconds = 0.0
    if level:
        seconds = (num_bytes or NOMINAL_BYTES) * agent.seconds_per_byte[level]
    waiting = agent.waiting + wish.pending.get(agent.node, 0)
    return Terms(level, wish.hits.get(agent.node, 0.0), waiting, seconds)
