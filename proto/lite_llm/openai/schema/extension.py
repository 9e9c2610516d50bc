"""What we add to OpenAI's API, under ``lite_llm`` in bodies: which experts, how soon, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from lite_llm.openai.naming import name_of
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.generate_pb2 import (
    ColdStart,
    GenerateStart,
    GenerateStarted,
    LoadPhase,
    TierSelection,
)
from lite_llm.wire import ref_from_proto

MAX_TOLD = 16  # candidates: the best ones; in a fleet of a thousand nobody reads the rest

_MODES = {
    "fast": model_pb2.TIER_MODE_FAST,
    "balanced": model_pb2.TIER_MODE_BALANCED,
    "deep": model_pb2.TIER_MODE_DEEP,
    "max": model_pb2.TIER_MODE_MAX,
}

TierName = Annotated[str, Meta(min_length=1, max_length=63)]
Milliseconds = Annotated[int, Meta(ge=1, le=2**32 - 1)]


class Extension(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a request."""

    tier_set: (
        Literal["fast", "balanced", "deep", "max"]
        | Annotated[list[TierName], Meta(min_length=1, max_length=64)]
        | None
    ) = None
    """Which experts may answer: a mode, or tiers by name."""
    latency_budget_ms: Milliseconds | None = None
    """To the first token."""
    priority: Annotated[int, Meta(ge=-100, le=100)] | None = None
    """Larger is sooner, within what the tenant may ask for; 0 is usual."""
    explain: bool | None = None
    """Whether the answer tells how it came about."""

    def apply(self, start: GenerateStart) -> None:
        """Put it on the wire."""
        start.priority = self.priority or 0
        tiers = TierSelection()
        if isinstance(self.tier_set, str):
            tiers.mode = _MODES[self.tier_set]
        elif self.tier_set:
            tiers.tiers.extend(self.tier_set)
        if self.latency_budget_ms:
            tiers.budget.first_token_ms = self.latency_budget_ms
        if tiers.ByteSize():
            start.tiers.CopyFrom(tiers)


class Waited(Struct, frozen=True, kw_only=True):
    """For the model to load. All times are seconds."""

    path: str
    """``hot``: it lay in memory, ``warm``: on a disk of its node, ``cold``: further away."""
    held: float
    phases: Mapping[str, float]


class Candidate(Struct, frozen=True, kw_only=True):
    """An agent and the terms of its score, the lowest of which wins."""

    agent: str
    score: float
    cache_level: int
    kv_hit_rate: float
    queue_length: int
    load_seconds: float
    excluded: str


class Explanation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an answer came about."""

    agent: str
    model: str = ""
    """The one that answered, by its own name."""
    version: str = ""
    tiers: list[str] = []
    cold_start: Waited | None = None
    candidates: list[Candidate] = []

    @classmethod
    def of(cls, started: GenerateStarted) -> Explanation:
        """From the first event of a stream."""
        return cls(
            agent=started.node,
            model=name_of(ref_from_proto(started.model)) if started.HasField("model") else "",
            version=started.version,
            tiers=list(started.tiers),
            cold_start=_waited(started.cold_start) if started.HasField("cold_start") else None,
            candidates=[
                Candidate(
                    agent=each.node,
                    score=each.score,
                    cache_level=each.cache_level,
                    kv_hit_rate=each.kv_hit_rate,
                    queue_length=each.queue_length,
                    load_seconds=each.load_seconds,
                    excluded=each.excluded,
                )
                for each in started.routing.candidates[:MAX_TOLD]
            ],
        )

    def headers(self) -> dict[str, str]:
        """The same in short, without the candidates."""
        told = {"X-Lite-Llm-Agent": self.agent}
        if self.model:
            told["X-Lite-Llm-Model"] = self.model
        if self.version:
            told["X-Lite-Llm-Version"] = " ".join(
                self.version.split()
            )  # people write what they like
        if self.tiers:
            told["X-Lite-Llm-Tiers"] = ",".join(self.tiers)
        if waited := self.cold_start:
            times = {"held": waited.held, **waited.phases}
            parts = [waited.path, *(f"{name}={seconds:.3f}" for name, seconds in times.items())]
            told["X-Lite-Llm-Cold-Start"] = "; ".join(parts)
        return told


def _waited(cold_start: ColdStart) -> Waited:
    phases = {
        LoadPhase.Name(each.phase).removeprefix("LOAD_PHASE_").lower(): each.seconds
        for each in cold_start.phases
    }
    path = cold_start.path or "elsewhere"  # another orchestrator saw to the load
    return Waited(path=path, held=cold_start.held_seconds, phases=phases)
