"""Pods really run, and their status is the truth about it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from lite_llm.testing.guard import marked_processes

FOREVER = "exec sleep 600"


def terminated(code: int, reason: str) -> dict[str, Any]:
    return {"exitCode": code, "reason": reason}


def shown(state: dict[str, Any]) -> dict[str, Any]:
    """What a terminated state says, without its times and identity."""
    return {key: state["terminated"][key] for key in ("exitCode", "reason")}


def host_folder(path: Path) -> dict[str, Any]:
    """Part of a Pod that has ``path`` as its volume ``host``."""
    return {"volumes": [{"name": "host", "hostPath": {"path": str(path)}}]}


HOST = {"volumeMounts": [{"name": "host", "mountPath": "/host"}]}


async def test_one_that_ends_well_has_succeeded(cluster: Any) -> None:
    cluster.run("once", "echo done", pod={"restartPolicy": "Never"})
    status = await cluster.phase("once", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded"
    assert shown(cluster.state("once")) == terminated(0, "Completed")
    assert cluster.log("once") == "done\n"
    reasons = {one["type"]: one.get("reason") for one in status["conditions"]}
    assert reasons["Ready"] == "PodCompleted"
    assert cluster.container("once")["imageID"] == "process"


async def test_one_that_crashes_is_restarted_and_counted(cluster: Any) -> None:
    cluster.run("crashing", "echo run; exit 3")

    def waits_again() -> Any:
        container = cluster.container("crashing")
        waiting = container.get("state", {}).get("waiting", {})
        again = waiting.get("reason") == "CrashLoopBackOff" and container["restartCount"] >= 2
        return again and container

    container = await cluster.eventually(waits_again)
    assert shown(container["lastState"]) == terminated(3, "Error")
    assert not container["ready"]
    assert cluster.status("crashing")["phase"] == "Running"
    assert cluster.kubelet.log(cluster.namespace, "crashing", previous=True) == "run\n"


async def test_init_containers_run_in_order_before_the_rest(cluster: Any) -> None:
    def step(number: int, script: str) -> dict[str, Any]:
        mounts = [{"name": "shared", "mountPath": "/shared/steps"}]
        command = ["sh", "-c", script]
        return {
            "name": f"step-{number}",
            "image": "none",
            "command": command,
            "volumeMounts": mounts,
        }

    steps = [
        step(1, "sleep 0.3; echo 1 >> /shared/steps/log"),
        step(2, "echo 2 >> /shared/steps/log"),
    ]
    shared = {"restartPolicy": "Never", "volumes": [{"name": "shared", "emptyDir": {}}]}
    mounts = steps[0]["volumeMounts"]
    cluster.run(
        "ordered",
        "cat /shared/steps/log",
        pod={**shared, "initContainers": steps},
        volumeMounts=mounts,
    )
    failing = [step(1, "exit 9"), step(2, "true")]
    cluster.run("halted", "echo never", pod={**shared, "initContainers": failing})
    await cluster.phase("ordered", "Succeeded")
    assert cluster.log("ordered") == "1\n2\n"
    status = await cluster.phase("halted", "Failed")
    first, second = status["initContainerStatuses"]
    assert shown(first["state"]) == terminated(9, "Error")
    assert second["restartCount"] == 0
    assert cluster.state("halted") == {"waiting": {"reason": "PodInitializing"}}


async def test_config_maps_secrets_and_fields_arrive_as_variables_and_files(cluster: Any) -> None:
    secret = {"password": base64.b64encode(b"hunter2").decode()}
    cluster.make("secrets", {"metadata": {"name": "hidden"}, "data": secret})
    volumes = [
        {"name": "all", "projected": {"sources": [
            {"configMap": {"name": "settings"}},
            {"secret": {"name": "hidden", "items": [{"key": "password", "path": "deep/password"}]}},
            {"downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ]}},
    ]  # fmt: skip
    variables = [
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "password"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "BOTH", "value": "$(NODE)/$(color)"},
    ]
    cluster.run(
        "configured",
        "cd /etc/all; cat color deep/password labels; echo; echo $PASSWORD $BOTH $IP; touch x",
        pod={"volumes": volumes, "restartPolicy": "Never"},
        volumeMounts=[{"name": "all", "mountPath": "/etc/all"}],
        envFrom=[{"configMapRef": {"name": "settings"}}],
        env=variables,
    )
    # It waits for what is not there yet, and says for what.
    await cluster.eventually(lambda: '"settings" not found' in str(cluster.state("configured")))
    assert cluster.status("configured")["phase"] == "Pending"
    cluster.make("configmaps", {"metadata": {"name": "settings"}, "data": {"color": "red"}})
    await cluster.phase("configured", "Failed")  # its volume cannot be written
    pod = cluster.get("pods", "configured")
    expected = f'redhunter2app="configured"\nhunter2 {pod["spec"]["nodeName"]}/red'
    assert f"{expected} {pod['status']['podIP']}\n" in cluster.log("configured")


async def test_what_cannot_be_run_waits_and_says_why(cluster: Any) -> None:
    missing = {"name": "X", "valueFrom": {"secretKeyRef": {"name": "nothing", "key": "k"}}}
    cluster.run("unset", "true", env=[missing])
    cluster.run("imaged", "true", command=None)
    cluster.run("absent", "true", command=["no-such-program"])
    share = {"name": "disk", "nfs": {"server": "192.0.2.1", "path": "/"}}
    cluster.run("sharing", "true", pod={"volumes": [share]})

    def waits(name: str, reason: str, message: str) -> Any:
        state = cluster.state(name).get("waiting") or {}
        return state.get("reason") == reason and message in state.get("message", "")

    await cluster.eventually(
        lambda: (
            waits("unset", "CreateContainerConfigError", 'secret "nothing" not found')
            and waits("imaged", "CreateContainerError", "set command")
            and waits("sharing", "ContainerCreating", "disk is a nfs")
        )
    )
    last = await cluster.eventually(lambda: cluster.container("absent").get("lastState"))
    assert shown(last) == terminated(128, "StartError")
    assert "no-such-program" in last["terminated"]["message"]


async def test_it_is_ready_when_its_probe_says_so_and_no_longer_than_that(
    cluster: Any, tmp_path: Path
) -> None:
    def probe(name: str) -> dict[str, Any]:
        command = {"command": ["test", "-e", f"/host/{name}"]}
        return {"exec": command, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 20}

    startup = {**probe("started"), "failureThreshold": 1000}
    cluster.run(
        "gated", FOREVER, pod=host_folder(tmp_path), **HOST,
        startupProbe=startup, readinessProbe=probe("ready"),
    )  # fmt: skip
    await cluster.eventually(lambda: "running" in cluster.state("gated"))
    (tmp_path / "ready").touch()
    assert not cluster.container("gated")["started"]
    assert not cluster.is_ready("gated")
    (tmp_path / "started").touch()
    await cluster.eventually(lambda: cluster.is_ready("gated"))
    assert cluster.container("gated")["started"]
    (tmp_path / "ready").unlink()
    await cluster.eventually(lambda: not cluster.is_ready("gated"))
    assert cluster.container("gated")["restartCount"] == 0


async def test_it_is_ended_when_it_does_not_live(cluster: Any) -> None:
    liveness = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}
    never = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1}
    polite = "trap 'echo bye; exit 5' TERM; while :; do sleep 0.05; done"
    cluster.run("polite", polite, pod=never, livenessProbe=liveness)
    cluster.run("deaf", FOREVER, pod=never, livenessProbe=liveness)  # process 1 has no handler
    await cluster.phase("polite", "Failed")
    assert shown(cluster.state("polite")) == terminated(5, "Error")
    assert cluster.log("polite") == "bye\n"
    await cluster.phase("deaf", "Failed")
    assert shown(cluster.state("deaf")) == terminated(137, "Error")


async def test_deletion_gives_time_for_a_farewell(cluster: Any, tmp_path: Path) -> None:
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo preStop >> /host/log"]}}}
    script = "trap 'echo TERM >> /host/log; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    cluster.run("leaving", script, pod=host_folder(tmp_path), lifecycle=hook, **HOST)
    await cluster.eventually(
        lambda: "running" in cluster.state("leaving") and cluster.log("leaving")
    )
    cluster.delete_pod("leaving", 30)
    await cluster.gone("leaving")
    assert (tmp_path / "log").read_text() == "preStop\nTERM\n"


@pytest.mark.parametrize("grace_seconds", [0, 1])
async def test_deletion_is_forced_in_the_end(cluster: Any, grace_seconds: int) -> None:
    mark = cluster.kubelet.guard.mark
    cluster.run("stubborn", f"trap '' TERM; setsid sleep 600 & echo up; {FOREVER}")
    await cluster.eventually(lambda: cluster.is_ready("stubborn") and cluster.log("stubborn"))
    assert len(list(marked_processes(mark))) >= 3
    cluster.delete_pod("stubborn", grace_seconds)
    await cluster.gone("stubborn")
    await cluster.eventually(lambda: not list(marked_processes(mark)))
