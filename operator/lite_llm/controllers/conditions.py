"""Conditions of a custom resource, after Kubernetes' API conventions. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Condition = dict[str, Any]


def with_condition(
    conditions: Sequence[Mapping[str, Any]],
    *,
    kind: str,
    status: bool,
    reason: str,
    message: str,
    generation: int,
    now: str,
) -> list[Condition]:
    """``conditions`` with ``kind`` set; its transition time moves only when its status flips.

    ``now`` is an RFC 3339 time. Setting what is already set gives an equal list back, so that a
    repeated reconciliation writes nothing.
    """
    told = "True" if status else "False"
    before = next((known for known in conditions if known["type"] == kind), None)
    moved = now if before is None or before["status"] != told else before["lastTransitionTime"]
    condition: Condition = {
        "type": kind,
        "status": told,
        "reason": reason,
        "message": message,
        "lastTransitionTime": moved,
        "observedGeneration": generation,
    }
    others = [dict(known) for known in conditions if known["type"] != kind]
    return sorted([*others, condition], key=lambda known: str(known["type"]))
