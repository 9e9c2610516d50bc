"""How many agents a model should have: a pure decision on what is known, with its reason."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from lite_llm.placement.facts import Held
from lite_llm.proto.v1.model_pb2 import Scaling
from lite_llm.proto.v1.orchestrator_pb2 import ScalingState

TARGET_QUEUE = 4  # waiting requests per agent where the spec names no number: about one batch more
UP_SECONDS = 5.0  # between two steps up: so long it takes until the first shows in the queues
DOWN_SECONDS = 60.0  # between two steps down: a load costs more than an agent that idles a minute


@dataclass(frozen=True, slots=True)
class Decision:
    """So many agents should serve the model."""

    desired: int
    reason: str
    """Words for people; empty if nothing is to change."""


def decide(
    scaling: Scaling, serving: Mapping[str, Held], state: ScalingState, now: float
) -> Decision:
    """For a model that the agents in ``serving`` serve; ``now`` is seconds since the epoch.

    From zero to one is not decided here: a request does that, and waits for it.
    """
    count, least = len(serving), scaling.min_replicas
    most = max(scaling.max_replicas, least, 1)
    target = scaling.target_queue_length or TARGET_QUEUE
    waiting = sum(held.waiting for held in serving.values())
    busy = waiting + sum(held.running for held in serving.values())
    # A clock that was set back must not make what is past the future.
    since_use, since_change = (max(0.0, now - at) for at in (state.used_at, state.changed_at))
    if count < least:
        return Decision(least, f"at least {least} agents should serve it")
    if count > most:
        return Decision(most, f"at most {most} agents should serve it")
    if waiting > target * count and count < most and since_change >= UP_SECONDS:
        wanted = min(most, max(count + 1, math.ceil(waiting / target)))
        return Decision(wanted, f"{waiting} requests wait on {count} agents")
    if count > least and not busy and 0 < scaling.idle_seconds <= since_use:
        return Decision(least, f"idle for {since_use:.0f} s")
    fits_fewer = busy <= target * (count - 1) / 2
    if count > max(least, 1) and fits_fewer and since_change >= DOWN_SECONDS:
        return Decision(count - 1, f"{busy} requests keep {count} agents")
    return Decision(count, "")


def dispensable(serving: Mapping[str, Held], pinned: Collection[str], count: int) -> list[str]:
    """The ``count`` agents, or fewer, that can best do without the model: those that do least."""
    free = (node for node in serving if node not in pinned)
    return sorted(free, key=lambda node: (serving[node].running + serving[node].waiting, node))[
        :count
    ]
