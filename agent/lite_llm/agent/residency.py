"""What an agent says about a model, decided from what it knows: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field

from lite_llm.contracts import Medium, ModelRef, ModelState, format_size
from lite_llm.proto.v1 import agent_pb2, generate_pb2
from lite_llm.wire import ref_to_proto
from lite_llm.wire.values import medium_to_proto, state_to_proto

DENSE = "dense"  # the tier of everything that is no expert


@dataclass(frozen=True, kw_only=True)
class Holding:
    """A model on this agent, as it is now."""

    ref: ModelRef
    state: ModelState
    reason: str
    """In words for people."""
    medium: Medium = Medium.OBJECT_STORE
    """The nearest that has all of it; without a GPU a worker's memory is the hot tier."""
    weight_bytes: int = 0
    running: int = 0
    """Requests."""
    waiting: int = 0
    """Requests."""
    generation: int = 0
    """Of the spec that was loaded."""
    context_tokens: int = 0
    kv_hit_rate: float = 0.0
    """Share of prompts' tokens found computed lately, 0 to 1."""
    digest: str = ""
    """Of a checkpoint from a store."""
    cold_start: generate_pb2.ColdStart = field(default_factory=generate_pb2.ColdStart)
    """The last start that led here."""
    started_at: float = 0.0
    """When that ended, in seconds since the epoch; 0: never."""
    failure: str = ""
    """Of the last load, as a condition's reason."""

    @property
    def loaded(self) -> bool:
        """It takes memory."""
        return self.medium <= Medium.DRAM


def residency_of(holding: Holding, node: str) -> agent_pb2.Residency:
    """The message for the metadata store and for whoever asks."""
    medium = medium_to_proto(holding.medium)
    tiers = []
    if holding.medium < Medium.OBJECT_STORE:
        tiers = [agent_pb2.TierResidency(tier=DENSE, medium=medium, bytes=holding.weight_bytes)]
    return agent_pb2.Residency(
        model=ref_to_proto(holding.ref),
        node=node,
        state=state_to_proto(holding.state),
        nearest=medium,
        tiers=tiers,
        running_requests=holding.running,
        waiting_requests=holding.waiting,
        reason=holding.reason,
        observed_generation=holding.generation,
        context_tokens=holding.context_tokens,
        kv_hit_rate=holding.kv_hit_rate,
        checkpoint_digest=holding.digest,
        last_cold_start=holding.cold_start if holding.started_at else None,
        started_at=holding.started_at,
        failure=holding.failure,
    )


def without_counts(residency: agent_pb2.Residency) -> agent_pb2.Residency:
    """What is worth telling the cluster at once; counts can wait for the next heartbeat."""
    told = agent_pb2.Residency()
    told.CopyFrom(residency)
    for name in ("running_requests", "waiting_requests", "kv_hit_rate"):
        told.ClearField(name)
    return told


def words_for(progress: generate_pb2.LoadProgress, source: str = "disk") -> str:
    """One sentence about a load; ``source`` is where bytes are fetched from: "s3"."""
    done, total = format_size(progress.done_bytes), format_size(progress.total_bytes)
    left = progress.remaining_seconds
    estimate = f", {left:.0f} s left" if left >= 0 else ""
    match progress.phase:
        case generate_pb2.LOAD_PHASE_QUEUE:
            return "cold: queued"
        case generate_pb2.LOAD_PHASE_SCHEDULE:
            return f"cold: asking {source} what there is"
        case generate_pb2.LOAD_PHASE_FETCH:
            return f"cold: fetching {done} of {total} from {source}{estimate}"
        case generate_pb2.LOAD_PHASE_READ:
            return f"cold: reading {done} of {total} from disk{estimate}"
        case _:
            return "warm: preparing the engine"
