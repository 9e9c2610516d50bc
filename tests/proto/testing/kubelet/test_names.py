"""Names of Services lead where a cluster's DNS would lead, or to the Pods behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lite_llm.testing.kubelet.names import HostsFile, hosts_of


def endpoints(name: str, *addresses: dict[str, str]) -> dict[str, Any]:
    """As a controller makes them for a Service of namespace ``a``."""
    return {"metadata": {"name": name, "namespace": "a"}, "subsets": [{"addresses": [*addresses]}]}


def test_a_service_has_its_names_and_a_stateful_pod_one_of_its_own() -> None:
    plain, stateful = {"ip": "198.18.0.5"}, {"ip": "198.18.0.6", "hostname": "etcd-0"}
    lines = hosts_of([endpoints("etcd", stateful), endpoints("door", plain)]).splitlines()
    assert lines == [
        "198.18.0.5 door.a door.a.svc door.a.svc.cluster.local",
        "198.18.0.6 etcd.a etcd.a.svc etcd.a.svc.cluster.local "
        "etcd-0.etcd.a etcd-0.etcd.a.svc etcd-0.etcd.a.svc.cluster.local",
    ]


def test_nobody_behind_a_service_is_no_line() -> None:
    assert hosts_of([{"metadata": {"name": "door", "namespace": "a"}}]) == ""


def test_the_file_stays_the_same_one_and_keeps_the_machine_s_lines(tmp_path: Path) -> None:
    file = HostsFile(tmp_path / "hosts")
    before = file.path.stat().st_ino
    assert "localhost" in file.path.read_text()
    file.tell([endpoints("door", {"ip": "198.18.0.5"})])
    assert file.path.stat().st_ino == before, "containers hold it mounted"
    assert file.path.read_text().endswith("198.18.0.5 door.a door.a.svc door.a.svc.cluster.local\n")
    file.tell(())
    assert "door" not in file.path.read_text()


async def test_containers_find_a_service_by_its_name(cluster: Any) -> None:
    ask = "import socket; print(sorted({a[4][0] for a in socket.getaddrinfo('%s', 80)}))"
    name = f"door.{cluster.namespace}.svc"
    service = {"selector": {"app": "door"}, "clusterIP": "None", "ports": [{"port": 80}]}
    cluster.make("services", {"metadata": {"name": "door"}, "spec": service})
    cluster.run("door", "exec sleep 600")
    await cluster.eventually(lambda: cluster.is_ready("door"))
    script = f'until python3 -c "{ask % name}"; do sleep 0.2; done'
    cluster.run("client", script, pod={"restartPolicy": "Never"})
    assert (await cluster.phase("client", "Succeeded", "Failed"))["phase"] == "Succeeded"
    assert cluster.log("client").splitlines()[-1] == f"['{cluster.status('door')['podIP']}']"
