"""How much memory a model's experts may take, and how it is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lite_llm.experts.policies import DEFAULT, Policy

READERS: Final = 4
"""Threads that fetch: as many reads as keep a disk busy while others verify and copy."""


@dataclass(frozen=True, kw_only=True)
class ExpertSettings:
    """Budgets are never exceeded; sizes are in bytes."""

    hot_bytes: int
    """Where experts run: device memory, or ordinary memory without a device."""
    warm_bytes: int
    """Host memory behind it, what is on its way through it included."""
    apart: bool | None = None
    """Whether experts are copied from warm slots into hot ones to run. None: where there is a
    device. Without one all of it is the same memory: as one pool, it holds more and copies none."""
    policy: Policy = DEFAULT
    """Which expert leaves a hot slot."""
    prefetch: bool = True
    """Fetch what the next layer will probably ask for."""
    seed: int = 0
    """Of the order among experts of equal worth."""
    patience: float = 30.0
    """Seconds that a store may take for one expert, before those who need it fail."""
    readers: int = READERS
    log: bool = False
    """Keep every event, for audits and replays."""
    trace: Path | None = None
    """Where to write which experts were asked for, when the model is unloaded."""
