"""Events worth a person's look, told from how a status changes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lite_llm.controllers.judging import ACCEPTED, DEGRADED, INGESTED, READY, VERIFIED

Status = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Announcement:
    """One Event of Kubernetes; ``reason`` is stable, ``message`` is for people."""

    reason: str
    message: str
    kind: Literal["Normal", "Warning"] = "Normal"


REASONS: Mapping[str, str] = {
    "Accepted": "the spec is stored, and the model can be asked for",
    "Refused": "the spec can't be stored; the message says why",
    "Ingested": "the checkpoint lies in the cluster's stores",
    "IngestionFailed": "the source could not be brought in; it is tried again",
    "VerificationFailed": "bytes or signature of the checkpoint are not what they must be",
    "Started": "the first agent takes requests; the message tells the cold start by phase",
    "ScaledToZero": "the last agent has stopped taking requests; the next request brings it back",
    "ScaledUp": "more agents take requests than before",
    "ScaledDown": "fewer agents take requests than before, but not none",
    "Degraded": "something is wrong; the message says what and where",
    "Recovered": "what was wrong is no more",
    "Withdrawn": "agents have let go of the model, and its object may go",
}
"""Every reason and what it means."""


def announced(before: Status, after: Status) -> Iterator[Announcement]:
    """What to tell when a status changes so."""
    yield from _conditions(before, after)
    yield from _replicas(before.get("replicas", 0), after)


def _conditions(before: Status, after: Status) -> Iterator[Announcement]:
    was = {each["type"]: each for each in before.get("conditions", [])}
    for now in after["conditions"]:
        old = was.get(now["type"], {})
        if (old.get("status"), old.get("reason")) == (now["status"], now["reason"]):
            continue
        has_flipped = old.get("status") != now["status"]
        match now["type"], now["status"]:
            case kind, "True" if kind == ACCEPTED and has_flipped:
                yield Announcement("Accepted", now["message"])
            case kind, "False" if kind == ACCEPTED:
                yield Announcement("Refused", now["message"], "Warning")
            case kind, "True" if kind == INGESTED and has_flipped:
                yield Announcement("Ingested", now["message"])
            case kind, "False" if kind == INGESTED and now["reason"] == "IngestionFailed":
                yield Announcement("IngestionFailed", now["message"], "Warning")
            case kind, "False" if kind == VERIFIED:
                yield Announcement("VerificationFailed", now["message"], "Warning")
            case kind, "True" if kind == DEGRADED:
                yield Announcement("Degraded", f"{now['reason']}: {now['message']}", "Warning")
            case kind, "False" if kind == DEGRADED and old:
                yield Announcement("Recovered", now["message"])


def _replicas(was: int, after: Status) -> Iterator[Announcement]:
    now = after.get("replicas", 0)
    if now and not was:
        yield Announcement("Started", _told_start(after))
    elif was and not now:
        yield Announcement("ScaledToZero", after.get("whyCold", "no agent takes requests"))
    elif now != was:
        yield Announcement(
            "ScaledUp" if now > was else "ScaledDown", f"{now} agents take requests, {was} did"
        )


def _told_start(after: Status) -> str:
    start = after.get("lastColdStart")
    if not start or not start.get("milliseconds"):
        ready = next(each for each in after["conditions"] if each["type"] == READY)
        return str(ready["message"])
    phases = ", ".join(
        f"{each['name']} {each['milliseconds'] / 1000:.1f} s" for each in start["phases"]
    )
    seconds = start["milliseconds"] / 1000
    return f"{start['path']} start on {start['agent']} took {seconds:.1f} s: {phases}"
