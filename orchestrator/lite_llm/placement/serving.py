"""Who serves each model, least busy first: kept with the view, so that no choice looks at all."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lite_llm.contracts import ModelRef
from lite_llm.placement.facts import AgentFacts, Held
from lite_llm.placement.sharing import changed, shared


class Rank(NamedTuple):
    """An agent's place among those that serve a model, by its last heartbeat."""

    waiting: int
    running: int
    salt: int
    node: str


Queue = Sequence[Rank]
"""Of one model, ascending; never modified."""


@dataclass(frozen=True, slots=True)
class ServingIndex:
    """Of a whole view. What becomes of it after a change shares the rest with it."""

    queues: Mapping[ModelRef, Queue]
    """Of agents that can be chosen; models that none serves are left out."""
    served: Mapping[str, frozenset[ModelRef]]
    """By node, whether it can be chosen or not."""

    def with_agent(self, node: str, old: AgentFacts | None, new: AgentFacts | None) -> ServingIndex:
        """After a heartbeat of ``node``, or its end."""
        before, after = _rank(old), _rank(new)
        models = self.served.get(node, frozenset())
        if before == after or not models:
            return self
        queues = self.queues
        for model in models:
            queues = _moved(queues, model, before, after)
        return ServingIndex(queues, self.served)

    def with_held(
        self, model: ModelRef, node: str, held: Held | None, agent: AgentFacts | None
    ) -> ServingIndex:
        """After ``node``, of which ``agent`` is known, told what it holds of ``model``."""
        before = self.served.get(node, frozenset())
        serves = held is not None and held.serves
        if serves == (model in before):
            return self
        now, rank = before | {model} if serves else before - {model}, _rank(agent)
        queues = _moved(self.queues, model, None if serves else rank, rank if serves else None)
        return ServingIndex(queues, changed(self.served, node, now or None))


EMPTY = ServingIndex({}, {})


def index_of(
    facts: Mapping[str, AgentFacts], held: Mapping[ModelRef, Mapping[str, Held]]
) -> ServingIndex:
    """Of these agents, and of what they hold."""
    queues: dict[ModelRef, Queue] = {}
    served: dict[str, set[ModelRef]] = {}
    for model, by_node in held.items():
        nodes = [node for node, one in by_node.items() if one.serves]
        if queue := sorted(rank for node in nodes if (rank := _rank(facts.get(node)))):
            queues[model] = queue
        for node in nodes:
            served.setdefault(node, set()).add(model)
    frozen = {node: frozenset(models) for node, models in served.items()}
    return ServingIndex(shared(queues), shared(frozen))


def idlest(queue: Queue, left_out: Collection[str]) -> Iterator[Queue]:
    """For each number of waiting requests, ascending: the agents that run the fewest, by salt."""
    at = 0
    while at < len(queue):
        waiting, running = queue[at][:2]
        end = bisect_left(queue, (waiting, running + 1), at)
        alike = queue[at:end]
        if left_out:
            alike = [rank for rank in alike if rank.node not in left_out]
        if alike:
            yield alike
            end = bisect_left(queue, (waiting + 1,), end)
        at = end


def _rank(agent: AgentFacts | None) -> Rank | None:
    if agent is None or agent.excluded:
        return None
    return Rank(agent.waiting, agent.running, agent.salt, agent.node)


def _moved(
    queues: Mapping[ModelRef, Queue], model: ModelRef, old: Rank | None, new: Rank | None
) -> Mapping[ModelRef, Queue]:
    queue = list(queues.get(model, ()))
    if old is not None:
        del queue[bisect_left(queue, old)]
    if new is not None:
        insort(queue, new)
    return changed(queues, model, queue or None)
