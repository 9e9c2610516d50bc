"""What a Pod's status says, given what its containers did. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lite_llm.testing.kubelet.environment import Object

PREFIX = "process://"
START_ERROR = 128
LOST = 137  # the exit codes that kubelets and container runtimes report for these


def timestamp(moment: float) -> str:
    """Seconds since the epoch as Kubernetes writes them: RFC 3339, whole seconds."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Waiting:
    """Not running, but to be run; ``reason`` as Kubernetes words it."""

    reason: str
    message: str = ""


@dataclass(frozen=True)
class Running:
    """Running since ``started_at``, in seconds since the epoch."""

    started_at: float


@dataclass(frozen=True)
class Terminated:
    """Ended, with its exit code: 128 more than the signal where one killed it."""

    exit_code: int
    started_at: float
    finished_at: float
    message: str = ""
    reason: str = ""

    def shown_reason(self) -> str:
        """The reason, by the exit code where none was given."""
        return self.reason or ("Error" if self.exit_code else "Completed")


State = Waiting | Running | Terminated


@dataclass(frozen=True)
class ContainerFacts:
    """What is known of one container of a Pod."""

    name: str
    image: str
    state: State = Waiting("ContainerCreating")
    last: Terminated | None = None
    restarts: int = 0
    started: bool = False
    ready: bool = False
    run: str = ""
    """Identity of its latest run; empty before the first."""


@dataclass(frozen=True)
class PodFacts:
    """What is known of a Pod."""

    restart_policy: str
    host_ip: str
    pod_ip: str
    start_time: float
    init: Sequence[ContainerFacts]
    main: Sequence[ContainerFacts]


def readiness(status: Object) -> str:
    """What a status says of being Ready; empty where it says nothing."""
    conditions = status.get("conditions") or ()
    return next((str(one["status"]) for one in conditions if one["type"] == "Ready"), "")


def start_time(status: Object, now: float) -> float:
    """When a kubelet first saw the Pod, which may be now."""
    before = status.get("startTime")
    return datetime.fromisoformat(before).timestamp() if before else now


def resumed(name: str, image: str, statuses: Sequence[Object], now: float) -> ContainerFacts:
    """What an earlier kubelet's status says of a container: what ran then is lost by now."""
    before = next((one for one in statuses if one["name"] == name), None)
    if not before or not before.get("containerID"):
        return ContainerFacts(name, image)
    if ended := before["state"].get("terminated"):
        began, finished = (
            datetime.fromisoformat(ended[key]).timestamp() for key in ("startedAt", "finishedAt")
        )
        state = Terminated(
            ended["exitCode"], began, finished, ended.get("message", ""), ended["reason"]
        )
    else:
        message = "the container was lost with its node"
        state = Terminated(LOST, now, now, message, "ContainerStatusUnknown")
    run = before["containerID"].removeprefix(PREFIX)
    return ContainerFacts(name, image, state, restarts=before["restartCount"], run=run)


def will_run_again(state: Terminated, restart_policy: str) -> bool:
    """Whether a container that ended is to be restarted."""
    return restart_policy == "Always" or (restart_policy == "OnFailure" and state.exit_code != 0)


def initialized(facts: PodFacts) -> bool:
    """Whether all init containers succeeded."""
    return all(isinstance(one.state, Terminated) and one.state.exit_code == 0 for one in facts.init)


def phase(facts: PodFacts) -> str:
    """The Pod's phase."""
    if any(_failed_for_good(one, init_policy(facts.restart_policy)) for one in facts.init):
        return "Failed"
    if not initialized(facts):
        return "Pending"
    ended = [one.state for one in facts.main if isinstance(one.state, Terminated)]
    if len(ended) == len(facts.main):
        if any(will_run_again(state, facts.restart_policy) for state in ended):
            return "Running"
        return "Failed" if any(state.exit_code for state in ended) else "Succeeded"
    never_ran = all(isinstance(one.state, Waiting) and one.last is None for one in facts.main)
    return "Pending" if never_ran else "Running"


def init_policy(restart_policy: str) -> str:
    """The restart policy of init containers in a Pod of this one: they need to succeed once."""
    return "OnFailure" if restart_policy == "Always" else restart_policy


def _failed_for_good(one: ContainerFacts, restart_policy: str) -> bool:
    state = one.state
    return (
        isinstance(state, Terminated)
        and state.exit_code != 0
        and not will_run_again(state, restart_policy)
    )


def pod_status(facts: PodFacts, previous: Object, now: float) -> dict[str, Any]:
    """The ``status`` that follows ``previous``: conditions keep their time of change."""
    shown = phase(facts)
    unready = [one.name for one in facts.main if not one.ready]
    pending = [one.name for one in facts.init if not _succeeded(one)]
    if shown == "Succeeded":
        not_ready = ("PodCompleted", "")
    else:
        not_ready = ("ContainersNotReady", f"containers with unready status: {_names(unready)}")
    not_initialized = (
        "ContainersNotInitialized",
        f"containers with incomplete status: {_names(pending)}",
    )
    conditions = [
        ("Initialized", not pending, not_initialized),
        ("Ready", not unready, not_ready),
        ("ContainersReady", not unready, not_ready),
        ("PodScheduled", True, ("", "")),
    ]
    before = {one["type"]: one for one in previous.get("conditions") or ()}
    return {
        "phase": shown,
        "hostIP": facts.host_ip,
        "podIP": facts.pod_ip,
        "podIPs": [{"ip": facts.pod_ip}],
        "startTime": timestamp(facts.start_time),
        "conditions": [
            _condition(kind, holds, why, before.get(kind), now) for kind, holds, why in conditions
        ],
        "initContainerStatuses": [_container_status(one) for one in facts.init],
        "containerStatuses": [_container_status(one) for one in facts.main],
    }


def _succeeded(one: ContainerFacts) -> bool:
    return isinstance(one.state, Terminated) and one.state.exit_code == 0


def _names(names: Iterable[str]) -> str:
    return f"[{' '.join(names)}]"


def _condition(
    kind: str, holds: bool, why: tuple[str, str], before: Object | None, now: float
) -> dict[str, Any]:
    status = str(holds)
    same = before is not None and before["status"] == status and before.get("lastTransitionTime")
    changed = before["lastTransitionTime"] if before and same else timestamp(now)
    reason, message = ("", "") if holds else why
    return {
        "type": kind,
        "status": status,
        "lastProbeTime": None,
        "lastTransitionTime": changed,
        # null takes a reason of before away: conditions are merged by their type
        "reason": reason or None,
        "message": message or None,
    }


def _container_status(one: ContainerFacts) -> dict[str, Any]:
    return {
        "name": one.name,
        "image": one.image,
        "imageID": "process",
        "containerID": f"{PREFIX}{one.run}" if one.run else "",
        "ready": one.ready,
        "started": one.started,
        "restartCount": one.restarts,
        "state": _state(one.state, one.run),
        "lastState": _state(one.last, "") if one.last else {},
    }


def _state(state: State, run: str) -> Mapping[str, Any]:
    if isinstance(state, Waiting):
        return {"waiting": _told(reason=state.reason, message=state.message)}
    if isinstance(state, Running):
        return {"running": {"startedAt": timestamp(state.started_at)}}
    return {
        "terminated": {
            "exitCode": state.exit_code,
            "startedAt": timestamp(state.started_at),
            "finishedAt": timestamp(state.finished_at),
            **_told(
                reason=state.shown_reason(),
                message=state.message,
                containerID=f"{PREFIX}{run}" if run else "",
            ),
        }
    }


def _told(**fields: str) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value}
