"""How many agents a model should have: a pure decision on what is known, with its reason."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from lite_llm.placement.facts import Held
from lite_llm.placement.forecast import AHEAD_SECONDS, Arrivals
from lite_llm.placement.schedule import floor_at
from lite_llm.proto.v1.model_pb2 import Medium, ModelSpec
from lite_llm.proto.v1.orchestrator_pb2 import ScalingState

TARGET_QUEUE = 4  # waiting requests per agent where the spec names no number: about one batch more
UP_SECONDS = 5.0  # between two steps up: so long it takes until the first shows in the queues
DOWN_SECONDS = 60.0  # between two steps down: a load costs more than an agent that idles a minute
GROWING = 1.05  # times what comes now: less is no growth that anybody can tell from chance


@dataclass(frozen=True, slots=True)
class Decision:
    """So many agents should serve the model."""

    desired: int
    reason: str
    """Words for people; empty if nothing is to change."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What orchestrators know of a model's requests beyond what agents tell."""

    held: int = 0
    """That wait at orchestrators."""
    arrivals: Arrivals = field(default_factory=Arrivals)
    replica_requests: float = 0.0
    """That an agent runs at a time when it is full; 0 while nobody knows."""


NO_DEMAND = Demand()


def decide(
    spec: ModelSpec,
    serving: Mapping[str, Held],
    state: ScalingState,
    now: float,
    demand: Demand = NO_DEMAND,
) -> Decision:
    """For a model that the agents in ``serving`` serve; ``now`` is seconds since the epoch.

    From zero to one is not decided here: a request does that, and waits for it.
    """
    scaling, count = spec.scaling, len(serving)
    least, why = _least(spec, now)
    most = max(scaling.max_replicas, least, 1)
    target = scaling.target_queue_length or TARGET_QUEUE
    waiting = demand.held + sum(held.waiting for held in serving.values())
    busy = waiting + sum(held.running for held in serving.values())
    expected = _expected(busy, demand.arrivals)
    # A clock that was set back must not make what is past the future.
    since_use, since_change = (max(0.0, now - at) for at in (state.used_at, state.changed_at))
    if count < least:
        return Decision(least, f"at least {least} agents should serve it{why}")
    if count > most:
        return Decision(most, f"at most {most} agents should serve it")
    if count and count < most and since_change >= (scaling.up_cooldown_seconds or UP_SECONDS):
        if waiting > target * count:
            wanted = min(most, max(count + 1, math.ceil(waiting / target)))
            return Decision(wanted, f"{waiting} requests wait on {count} agents")
        full = scaling.replica_requests or demand.replica_requests
        if full and expected > busy and (wanted := math.ceil(expected / full)) > count:
            arrivals = demand.arrivals
            return Decision(
                min(most, wanted),
                f"{arrivals.ahead():.3g} requests a second are expected in {AHEAD_SECONDS:g} s, "
                f"{arrivals.per_second:.3g} come now",
            )
    if count > least and not busy and 0 < scaling.idle_seconds <= since_use:
        return Decision(least, f"idle for {since_use:.0f} s")
    fits_fewer = max(busy, expected) <= target * (count - 1) / 2
    is_calm = since_change >= (scaling.down_cooldown_seconds or DOWN_SECONDS)
    if count > max(least, 1) and fits_fewer and is_calm:
        return Decision(count - 1, f"{busy} requests keep {count} agents")
    return Decision(count, "")


def dispensable(serving: Mapping[str, Held], pinned: Collection[str], count: int) -> list[str]:
    """The ``count`` agents, or fewer, that can best do without the model: those that do least."""
    free = (node for node in serving if node not in pinned)
    return sorted(free, key=lambda node: (serving[node].running + serving[node].waiting, node))[
        :count
    ]


def full_at(serving: Mapping[str, Held], known: float) -> float:
    """Requests that an agent runs when it is full: what is ``known``, or seen now to be so."""
    full = [held.running for held in serving.values() if held.waiting and held.running]
    return float(max(full, default=known))


def _least(spec: ModelSpec, now: float) -> tuple[int, str]:
    """And why, where it is not what the spec says for all times."""
    always = max(spec.scaling.min_replicas, int(spec.keep_warm == Medium.MEDIUM_GPU))
    floor, window = floor_at(spec.scaling.floors, now)
    return (floor, f", {window}") if floor > always else (always, "")


def _expected(busy: int, arrivals: Arrivals) -> float:
    """Requests at a time, soon: they last as long as now, so their number grows as arrivals do."""
    if arrivals.per_second <= 0 or arrivals.ahead() < GROWING * arrivals.per_second:
        return float(busy)
    return busy * arrivals.ahead() / arrivals.per_second
