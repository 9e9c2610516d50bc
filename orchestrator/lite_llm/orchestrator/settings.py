"""Everything that can be set about an orchestrator, read by the command line and nowhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.dispatch import HoldLimits
from lite_llm.placement import DEFAULT_WEIGHTS, Weights
from lite_llm.registry import RegistrySettings
from lite_llm.wire import TlsFiles


@dataclass(frozen=True, kw_only=True)
class OrchestratorSettings:
    """Of one orchestrator; checked when made."""

    listen_http: str = "127.0.0.1:8080"
    """``host:port`` of OpenAI's API; port 0 is any free one."""
    listen_grpc: str = "127.0.0.1:0"
    """``host:port`` of the gRPC service."""
    grpc_tls: TlsFiles | None = None
    """Mutual TLS on ``listen_grpc``; None is plain text."""
    agent_tls: TlsFiles | None = None
    """Mutual TLS towards agents; None is plain text."""
    max_body_bytes: int = 16 << 20
    """Of one HTTP request. A million tokens of context, as ids in JSON, are 8 MB."""
    keys: Path | None = None
    """File of tenants and the hashes of their API keys; None: anybody may ask for anything."""
    max_running: int = 8192
    """Requests at a time, those that wait for a model included; more wait for their turn, which
    goes round among tenants by their weights."""
    max_waiting: int = 8192
    """For their turn; more are refused."""
    hold: HoldLimits = field(default_factory=HoldLimits)
    """Of requests that wait for their model to load."""
    no_agent_seconds: float = 10.0
    """For an agent that could load a model, when there is none: a restart takes a few seconds."""
    weights: Weights = DEFAULT_WEIGHTS
    """Of the terms of the score by which agents are chosen."""
    stall_seconds: float = 30.0
    """A stream whose agent lives moves to another one after so long without a token; before its
    first token, after ten times as long: prompts take their time."""
    claim_seconds: float = 10.0
    """A load claimed by an orchestrator that died is free for others after this long."""
    scaling_seconds: float = 2.0
    """Between two looks of the leader at how many agents models have."""
    registry: RegistrySettings | None = None
    """Where models from elsewhere are brought in; None: agents load from their own sources."""
    grace_seconds: float = 5.0
    """Given to running requests when the orchestrator stops."""

    def __post_init__(self) -> None:
        for name in ("listen_http", "listen_grpc"):
            if not re.fullmatch(r".+:\d{1,5}", getattr(self, name)):
                raise self._wrong(name, "write host:port")
        for name in (
            "max_body_bytes",
            "max_running",
            "max_waiting",
            "no_agent_seconds",
            "stall_seconds",
            "claim_seconds",
            "scaling_seconds",
        ):
            if getattr(self, name) <= 0:
                raise self._wrong(name, "make it positive")
        for name in ("requests", "tenant_requests", "num_bytes", "seconds"):
            if getattr(self.hold, name) <= 0:
                raise self._wrong("hold", f"make its {name} positive")
        if self.grace_seconds < 0:
            raise self._wrong("grace_seconds", "make it 0 or more")

    def _wrong(self, name: str, remedy: str) -> InvalidSettings:
        return InvalidSettings(f"{name} is {getattr(self, name)!r}", where=name, remedy=remedy)
