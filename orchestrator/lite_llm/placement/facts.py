"""What decisions need of an agent and of what it holds, taken out of messages once per change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import xxhash

from lite_llm.proto.v1.agent_pb2 import AgentStatus, MediumStatus, Residency
from lite_llm.proto.v1.model_pb2 import Medium
from lite_llm.wire.values import medium_from_proto, state_from_proto

LEVELS = 5
"""Of the score's cache_level: GPU, DRAM, NVMe, SATA, object store."""

# Bytes a second of media that nobody has measured: a modest example of each, nearest first.
_UNMEASURED = (20e9, 10e9, 2e9, 0.4e9, 0.125e9)
_MEDIA = [Medium.ValueType(level + 1) for level in range(LEVELS)]


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """Of one agent, by its last heartbeat."""

    node: str
    excluded: str
    """Why it can't be chosen; empty if it can."""
    waiting: int
    """Requests, over all models."""
    running: int
    seconds_per_byte: tuple[float, ...]
    """To bring a byte from each level to where it is computed with."""
    capacity_bytes: int
    """Of the memory that models run in; 0 if it does not tell."""
    free_bytes: int
    labels: Mapping[str, str]
    salt: int
    """64 bits out of the node's name, for ties."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one agent holds of one model."""

    serves: bool
    level: int
    num_bytes: int
    """Of the model; 0 if the agent does not tell."""
    running: int
    waiting: int
    digest: str
    """Of the checkpoint; empty if the agent does not tell."""


def facts_of(agent: AgentStatus) -> AgentFacts:
    """Of a heartbeat."""
    media = {medium.medium: medium for medium in agent.media}
    memory = media.get(Medium.MEDIUM_GPU) or media.get(Medium.MEDIUM_DRAM) or MediumStatus()
    reason = "" if agent.health.healthy else f"unhealthy: {agent.health.reason}"
    return AgentFacts(
        node=agent.node,
        excluded="draining" if agent.draining else reason,
        waiting=agent.waiting_requests,
        running=agent.running_requests,
        seconds_per_byte=_seconds_per_byte(media),
        capacity_bytes=memory.capacity_bytes,
        free_bytes=max(0, memory.capacity_bytes - memory.used_bytes),
        labels=dict(agent.labels),
        salt=xxhash.xxh3_64_intdigest(agent.node.encode()),
    )


def held_of(residency: Residency) -> Held:
    """Of what an agent wrote about a model."""
    serves = state_from_proto(residency.state).takes_requests
    level = 0 if serves else int(medium_from_proto(residency.nearest))
    return Held(
        serves=serves,
        level=level,
        num_bytes=sum(tier.bytes for tier in residency.tiers),
        running=residency.running_requests,
        waiting=residency.waiting_requests,
        digest=residency.checkpoint_digest,
    )


def _seconds_per_byte(media: Mapping[Medium.ValueType, MediumStatus]) -> tuple[float, ...]:
    # Reads overlap with copies, so a byte takes as long as the slowest medium on its way.
    slowest, seconds = 0.0, [0.0]
    for level in range(1, LEVELS):
        medium = media.get(_MEDIA[level])
        speed = (medium.read_bytes_per_second if medium else 0) or _UNMEASURED[level]
        slowest = max(slowest, 1 / speed)
        seconds.append(slowest)
    return tuple(seconds)
