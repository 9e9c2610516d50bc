"""A Pod's status says what its containers did, in the words that Kubernetes uses."""

from typing import Any

import pytest

from lite_llm.testing.kubelet.status import (
    ContainerFacts,
    PodFacts,
    Running,
    State,
    Terminated,
    Waiting,
    phase,
    pod_status,
    resumed,
    start_time,
    timestamp,
)

NEW: State = Waiting("ContainerCreating")
UP: State = Running(100.0)
LOOP: State = Waiting("CrashLoopBackOff")
OK = Terminated(0, 100.0, 101.0)
BAD = Terminated(3, 100.0, 101.0)


def facts(
    main: list[State], init: list[State] | None = None, policy: str = "Always", **more: Any
) -> PodFacts:
    def containers(prefix: str, states: list[State]) -> list[ContainerFacts]:
        return [
            ContainerFacts(
                f"{prefix}{number}",
                "none",
                state,
                last=BAD if state is LOOP else None,
                ready=isinstance(state, Running),
                run=f"run{number}",
                **more,
            )
            for number, state in enumerate(states)
        ]

    return PodFacts(
        restart_policy=policy,
        host_ip="198.18.0.2",
        pod_ip="198.18.0.7",
        start_time=99.0,
        init=containers("i", init or []),
        main=containers("c", main),
    )


@pytest.mark.parametrize(
    ("policy", "init", "main", "expected"),
    [
        ("Always", [], [NEW], "Pending"),
        ("Always", [], [UP, NEW], "Running"),
        ("Always", [], [LOOP], "Running"),
        ("Always", [], [OK], "Running"),  # about to be restarted
        ("Always", [], [BAD, UP], "Running"),
        ("OnFailure", [], [OK], "Succeeded"),
        ("OnFailure", [], [OK, BAD], "Running"),
        ("Never", [], [OK, OK], "Succeeded"),
        ("Never", [], [OK, BAD], "Failed"),
        ("Never", [], [BAD, UP], "Running"),
        ("Always", [UP], [NEW], "Pending"),
        ("Always", [OK, NEW], [NEW], "Pending"),
        ("Always", [BAD], [NEW], "Pending"),
        ("Never", [BAD], [NEW], "Failed"),
        ("Never", [OK], [NEW], "Pending"),
        ("Never", [OK], [OK], "Succeeded"),
    ],
)
def test_phases(policy: str, init: list[State], main: list[State], expected: str) -> None:
    assert phase(facts(main, init, policy)) == expected


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    return {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]}


def test_conditions_follow_the_containers() -> None:
    creating = pod_status(facts([NEW], [UP]), {}, 200.0)
    assert conditions(creating) == {
        "Initialized": ("False", "ContainersNotInitialized"),
        "Ready": ("False", "ContainersNotReady"),
        "ContainersReady": ("False", "ContainersNotReady"),
        "PodScheduled": ("True", None),
    }
    messages = [one["message"] for one in creating["conditions"]]
    assert messages[:2] == [
        "containers with incomplete status: [i0]",
        "containers with unready status: [c0]",
    ]
    up = pod_status(facts([UP], [OK]), creating, 300.0)
    assert {status for status, _ in conditions(up).values()} == {"True"}
    done = pod_status(facts([OK], policy="Never"), up, 400.0)
    assert conditions(done)["Ready"] == ("False", "PodCompleted")


def test_a_condition_keeps_the_time_of_its_change() -> None:
    first = pod_status(facts([NEW]), {}, 200.0)
    second = pod_status(facts([UP]), first, 300.0)
    third = pod_status(facts([UP]), second, 400.0)
    times = [
        {one["type"]: one["lastTransitionTime"] for one in status["conditions"]}
        for status in (first, second, third)
    ]
    assert [one["Initialized"] for one in times] == [timestamp(200.0)] * 3
    assert [one["Ready"] for one in times] == [timestamp(t) for t in (200.0, 300.0, 300.0)]


def test_a_container_tells_its_states() -> None:
    def told(state: State) -> Any:
        status = pod_status(facts([state], restarts=2), {}, 200.0)
        return status["containerStatuses"][0]

    waiting = told(Waiting("CrashLoopBackOff", "back-off 1s"))
    assert waiting["state"] == {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 1s"}}
    running = told(UP)
    assert running["state"] == {"running": {"startedAt": "1970-01-01T00:01:40Z"}}
    assert (running["containerID"], running["imageID"], running["restartCount"]) == (
        "process://run0",
        "process",
        2,
    )
    assert told(OK)["state"]["terminated"]["reason"] == "Completed"
    assert told(BAD)["state"]["terminated"] == {
        "exitCode": 3,
        "reason": "Error",
        "startedAt": "1970-01-01T00:01:40Z",
        "finishedAt": "1970-01-01T00:01:41Z",
        "containerID": "process://run0",
    }
    assert told(LOOP)["lastState"]["terminated"]["exitCode"] == 3


def test_what_ran_under_an_earlier_kubelet_is_lost() -> None:
    status = pod_status(facts([UP], restarts=1), {}, 200.0)
    lost = resumed("c0", "none", status["containerStatuses"], 300.0)
    assert isinstance(lost.state, Terminated)
    assert (lost.state.exit_code, lost.state.reason) == (137, "ContainerStatusUnknown")
    assert (lost.restarts, lost.run) == (1, "run0")
    assert start_time(status, 300.0) == 99.0


def test_what_ended_under_an_earlier_kubelet_stays_ended() -> None:
    status = pod_status(facts([BAD], policy="Never"), {}, 200.0)
    ended = resumed("c0", "none", status["containerStatuses"], 300.0)
    assert ended.state == Terminated(3, 100.0, 101.0, "", "Error")


def test_what_never_ran_begins_anew() -> None:
    assert resumed("c0", "none", [], 300.0) == ContainerFacts("c0", "none")
    assert start_time({}, 300.0) == 300.0
