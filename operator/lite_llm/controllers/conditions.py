"""Conditions of a custom resource, after Kubernetes' API conventions. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["True", "False", "Unknown"]
MAX_MESSAGE = 2048  # characters; the schema allows more, but a person doesn't read more
_REASON = re.compile(r"[A-Za-z](?:[A-Za-z0-9_,:]{0,1022}[A-Za-z0-9_])?")


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is true, false or unknown, with the reason."""

    kind: str
    status: Status
    reason: str
    """Stable and in CamelCase: scripts compare it."""
    message: str
    """For people; may change."""


def holds(kind: str, reason: str, message: str) -> Condition:
    """``kind`` is true."""
    return Condition(kind, "True", reason, message)


def fails(kind: str, reason: str, message: str) -> Condition:
    """``kind`` is false."""
    return Condition(kind, "False", reason, message)


def unknown(kind: str, reason: str, message: str) -> Condition:
    """Nobody can tell whether ``kind`` is true."""
    return Condition(kind, "Unknown", reason, message)


def with_conditions(
    before: Sequence[Mapping[str, Any]], told: Iterable[Condition], *, generation: int, now: str
) -> list[dict[str, Any]]:
    """``before`` with what is ``told`` set; a transition time moves only when a status flips.

    ``now`` is an RFC 3339 time. Setting what is already set gives an equal list back, so that a
    repeated reconciliation writes nothing; conditions that others wrote stay. A reason that the
    schema would refuse, such as one in an agent's own words, becomes ``Other``.
    """
    known: dict[str, Mapping[str, Any]] = {each["type"]: each for each in before}
    for condition in told:
        was = known.get(condition.kind)
        is_same = was is not None and was["status"] == condition.status
        known[condition.kind] = {
            "type": condition.kind,
            "status": condition.status,
            "reason": condition.reason if _REASON.fullmatch(condition.reason) else "Other",
            "message": condition.message[:MAX_MESSAGE],
            "lastTransitionTime": was["lastTransitionTime"] if was and is_same else now,
            "observedGeneration": generation,
        }
    return [dict(known[kind]) for kind in sorted(known)]


def condition_of(body: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """One condition of an object; empty if nobody has set it."""
    conditions = body.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == kind), {})
