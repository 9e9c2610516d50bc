"""Who serves the models that many agents serve, least busy first: no choice has to look at all."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from lite_llm.contracts import ModelRef
from lite_llm.placement.facts import AgentFacts, Held
from lite_llm.placement.sharing import SMALL, all_changed, changed, shared


class Rank(NamedTuple):
    """An agent's place among those that serve a model, by its last heartbeat."""

    waiting: int
    running: int
    salt: int
    node: str


Queue = Sequence[Rank]
"""Of one model, ascending; never modified."""


Queues = Mapping[ModelRef, Queue]
"""Of models that more than ``SMALL`` agents serve, with those of the agents that can be chosen."""


def queues_of(
    facts: Mapping[str, AgentFacts], held: Mapping[ModelRef, Mapping[str, Held]]
) -> Queues:
    """Of these agents, and of what they hold."""
    found = ((model, _queue_of(by_node, facts)) for model, by_node in held.items())
    return shared({model: queue for model, queue in found if queue is not None})


def after_heartbeat(
    queues: Queues,
    held: Mapping[ModelRef, Mapping[str, Held]],
    old: AgentFacts | None,
    new: AgentFacts | None,
) -> Queues:
    """Of a node, or after its end."""
    before, after = _rank(old), _rank(new)
    agent = old or new
    if before == after or agent is None:
        return queues
    return all_changed(
        queues,
        [
            (model, _moved(queue, before, after))
            for model, queue in queues.items()
            if (one := held[model].get(agent.node)) is not None and one.serves
        ],
    )


def after_residency(
    queues: Queues,
    model: ModelRef,
    by_node: Mapping[str, Held],
    facts: Mapping[str, AgentFacts],
) -> Queues:
    """After an agent began to serve ``model`` or ended that, so that ``by_node`` hold it now."""
    return changed(queues, model, _queue_of(by_node, facts))


def _queue_of(by_node: Mapping[str, Held], facts: Mapping[str, AgentFacts]) -> Queue | None:
    if len(by_node) <= SMALL:
        return None
    serving = [node for node, held in by_node.items() if held.serves]
    if len(serving) <= SMALL:
        return None
    return sorted(rank for node in serving if (rank := _rank(facts.get(node))) is not None)


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


def _moved(old: Queue, before: Rank | None, after: Rank | None) -> Queue:
    queue = list(old)
    if before is not None:
        del queue[bisect_left(queue, before)]
    if after is not None:
        insort(queue, after)
    return queue
