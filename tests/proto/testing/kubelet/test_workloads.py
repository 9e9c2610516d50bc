"""What controllers make of workloads really runs, on Nodes that really die."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from lite_llm.testing.control_plane import ControlPlane
from lite_llm.testing.guard import marked_processes

POD_IP = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
SERVER = {
    "name": "main",
    "image": "none",
    "command": ["python", "-m", "http.server", "--bind", "$(POD_IP)", "8080"],
    "env": [POD_IP],
    "ports": [{"name": "http", "containerPort": 8080}],
    "readinessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 1},
}
IN_CLUSTER = """
import asyncio
from pathlib import Path
from kubernetes.aio import client, config

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

async def main():
    config.load_incluster_config()
    async with client.ApiClient() as api:
        said = None
        while True:
            try:
                pods = await client.CoreV1Api(api).list_namespaced_pod(
                    (ACCOUNT / "namespace").read_text())
                print([pod.metadata.name for pod in pods.items])
                return
            except client.ApiException as error:
                if said != error.status:
                    print(said := error.status, flush=True)
                await asyncio.sleep(0.1)

asyncio.run(main())
"""
OWNER = """
import asyncio
from lite_llm.testing.control_plane import ControlPlane
from lite_llm.testing.kubelet import ProcessKubelet

SCRIPT = "env -i setsid sleep 600 & echo up; wait"

async def main(plane):
    async with ProcessKubelet(plane) as kubelet:
        plane.make_namespace("theirs")
        container = {"name": "main", "image": "none", "command": ["sh", "-c", SCRIPT]}
        pod = {"metadata": {"name": "pod"}, "spec": {"containers": [container]}}
        plane.request("POST", "/api/v1/namespaces/theirs/pods", pod)
        while True:
            await asyncio.sleep(0.05)
            pod = plane.request("GET", "/api/v1/namespaces/theirs/pods/pod")
            if pod["status"]["phase"] == "Running" and kubelet.log("theirs", "pod"):
                break
        for guard in (plane.guard, kubelet.guard):
            print(guard.mark, guard.directory, end=" ")
        print(flush=True)
        await asyncio.Event().wait()

with ControlPlane() as plane:
    asyncio.run(main(plane))
"""


def workload(name: str, container: dict[str, Any], **spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
    selector = {"matchLabels": {"app": name}}
    return {
        "metadata": {"name": name},
        "spec": {"selector": selector, "template": template, **spec},
    }


async def test_a_deployment_becomes_available_and_answers(cluster: Any) -> None:
    cluster.make("deployments", workload("web", SERVER, replicas=2), "apps/v1")
    ports = [{"port": 80, "targetPort": "http"}]
    service = {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": ports}}
    cluster.make("services", service)

    def available() -> bool:
        status = cluster.get("deployments", "web", "apps/v1")["status"]
        return bool(status.get("availableReplicas") == 2)

    await cluster.eventually(available)
    addresses = {pod["status"]["podIP"] for pod in cluster.pods()}
    assert len(addresses) == 2
    for address in addresses:  # two servers on one port of one machine
        url = f"http://{address}:8080/"
        with await asyncio.to_thread(urllib.request.urlopen, url) as answer:
            assert answer.status == 200

    def endpoints() -> set[str]:
        subsets = cluster.get("endpoints", "web").get("subsets") or ()
        return {one["ip"] for subset in subsets for one in subset.get("addresses") or ()}

    if not any(address.startswith("127.") for address in addresses):
        await cluster.eventually(lambda: endpoints() == addresses)


async def test_a_daemon_set_runs_on_every_node(cluster: Any) -> None:
    node = {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    command = ["sh", "-c", "echo $NODE; exec sleep 600"]
    container = {"name": "main", "image": "none", "command": command, "env": [node]}
    cluster.make("daemonsets", workload("agent", container), "apps/v1")
    await cluster.eventually(
        lambda: cluster.get("daemonsets", "agent", "apps/v1")["status"].get("numberReady") == 3
    )
    pods = cluster.pods()
    assert {pod["spec"]["nodeName"] for pod in pods} == {"node-1", "node-2", "node-3"}
    assert len({pod["status"]["hostIP"] for pod in pods}) == 3
    for pod in pods:
        assert cluster.log(pod["metadata"]["name"]) == pod["spec"]["nodeName"] + "\n"


async def test_a_job_is_tried_until_it_succeeds(cluster: Any, tmp_path: Path) -> None:
    script = "test -e /host/tried || { touch /host/tried; exit 1; }"
    container = {
        "name": "main",
        "image": "none",
        "command": ["sh", "-c", script],
        "volumeMounts": [{"name": "host", "mountPath": "/host"}],
    }
    volumes = [{"name": "host", "hostPath": {"path": str(tmp_path)}}]
    spec = {"containers": [container], "volumes": volumes, "restartPolicy": "OnFailure"}
    job = {"metadata": {"name": "once"}, "spec": {"template": {"spec": spec}}}
    cluster.make("jobs", job, "batch/v1")
    await cluster.eventually(
        lambda: cluster.get("jobs", "once", "batch/v1")["status"].get("succeeded") == 1
    )
    (pod,) = cluster.pods()
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 1


async def test_a_program_finds_its_cluster_and_may_do_what_rbac_says(cluster: Any) -> None:
    program = ["python", "-c", IN_CLUSTER]
    cluster.run("asking", "", pod={"restartPolicy": "Never"}, command=program)
    rbac = "rbac.authorization.k8s.io"
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    cluster.make("roles", {"metadata": {"name": "see"}, "rules": rules}, f"{rbac}/v1")
    await cluster.phase("asking", "Running")
    await cluster.eventually(lambda: cluster.log("asking"))
    assert cluster.log("asking") == "403\n"
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": cluster.namespace}
    role = {"apiGroup": rbac, "kind": "Role", "name": "see"}
    binding = {"metadata": {"name": "see"}, "roleRef": role, "subjects": [subject]}
    cluster.make("rolebindings", binding, f"{rbac}/v1")
    await cluster.phase("asking", "Succeeded", "Failed")
    assert cluster.log("asking") == "403\n['asking']\n"


async def test_a_node_dies_without_a_word_and_comes_back(cluster: Any) -> None:
    cluster.run("victim", "echo up; exec sleep 600", pod={"nodeName": "node-2"})
    await cluster.eventually(lambda: cluster.is_ready("victim"))
    await cluster.kubelet.kill_node("node-2")
    assert "running" in cluster.state("victim")  # nobody has said otherwise

    def is_ready(node: str) -> bool:
        found = cluster.plane.request("GET", f"/api/v1/nodes/{node}")
        return any(
            one["type"] == "Ready" and one["status"] == "True"
            for one in found["status"]["conditions"]
        )

    await cluster.eventually(lambda: not is_ready("node-2"))
    assert is_ready("node-1")
    await cluster.eventually(lambda: not cluster.is_ready("victim"))  # its controller marked it
    await cluster.kubelet.start_node("node-2")
    await cluster.eventually(lambda: is_ready("node-2") and cluster.is_ready("victim"))
    container = cluster.container("victim")
    assert container["restartCount"] == 1
    assert container["lastState"]["terminated"]["reason"] == "ContainerStatusUnknown"


async def test_what_happens_while_the_apiserver_is_away_is_told_later(
    cluster: Any, tmp_path: Path
) -> None:
    volumes = [{"name": "host", "hostPath": {"path": str(tmp_path)}}]
    script = "until test -e /host/end; do sleep 0.05; done; touch /host/ended; exit 4"
    cluster.run(
        "working", script, pod={"restartPolicy": "Never", "volumes": volumes},
        volumeMounts=[{"name": "host", "mountPath": "/host"}],
    )  # fmt: skip
    await cluster.eventually(lambda: "running" in cluster.state("working"))
    cluster.plane.stop_apiserver()
    (tmp_path / "end").touch()
    await cluster.eventually((tmp_path / "ended").exists)
    await asyncio.to_thread(cluster.plane.start_apiserver)
    await cluster.phase("working", "Failed")
    assert cluster.state("working")["terminated"]["exitCode"] == 4


async def test_all_is_gone_after_the_owner_was_killed(plane: ControlPlane, eventually: Any) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, stdout=subprocess.PIPE
    )
    assert owner.stdout is not None
    marks_and_directories = (await owner.stdout.readline()).decode().split()
    marks, directories = marks_and_directories[::2], marks_and_directories[1::2]
    assert plane.guard.mark not in marks
    counts = [len(list(marked_processes(mark))) for mark in marks]
    assert counts == [4, 2]  # the control plane; launcher and shell: its child has no mark
    os.kill(owner.pid, signal.SIGKILL)
    await owner.communicate()
    await eventually(lambda: not any(os.path.exists(one) for one in directories))  # noqa: PTH110
    assert [len(list(marked_processes(mark))) for mark in marks] == [0, 0]
