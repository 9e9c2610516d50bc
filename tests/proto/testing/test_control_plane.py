"""The control plane is a real one: isolated, guarded by RBAC, and gone when its owner is."""

from __future__ import annotations

import fcntl
import http.client
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from lite_llm.testing import control_plane
from lite_llm.testing.control_plane import PROGRAMS, ApiError, ControlPlane, find_programs
from lite_llm.testing.guard import MissingServer, find_program

BUILD = Path(control_plane.__file__).with_name("control_plane_build.sh")


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane() as plane:
        yield plane


def core_api(kubeconfig: Path) -> Any:
    return client.CoreV1Api(config.new_client_from_config(str(kubeconfig)))


def may_list_pods(kubeconfig: Path, namespace: str) -> bool:
    api = core_api(kubeconfig)
    try:
        api.list_namespaced_pod(namespace)
    except client.exceptions.ForbiddenException:
        return False
    finally:
        api.api_client.close()
    return True


def allow_pods(plane: ControlPlane, namespace: str, name: str, subject: dict[str, str]) -> None:
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    plane.request("POST", f"{rbac}/roles", {"metadata": {"name": name}, "rules": rules})
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    binding = {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]}
    plane.request("POST", f"{rbac}/rolebindings", binding)


def test_its_certificate_is_verified_and_strangers_are_refused(plane: ControlPlane) -> None:
    trusting = ssl.create_default_context(cafile=plane.ca_file)
    connection = http.client.HTTPSConnection(plane.host, plane.port, context=trusting)
    connection.request("GET", "/api/v1/pods")
    assert connection.getresponse().status == 403
    connection.close()
    wary = http.client.HTTPSConnection(plane.host, plane.port)
    with pytest.raises(ssl.SSLCertVerificationError):
        wary.request("GET", "/api")


def test_users_and_groups_have_what_rbac_gives_them(plane: ControlPlane) -> None:
    assert may_list_pods(plane.kubeconfig, "default")
    namespace = plane.make_namespace("rbac")
    alice = plane.kubeconfig_for("alice")
    bob = plane.kubeconfig_for("bob", group="readers")
    assert not may_list_pods(alice, namespace)
    assert not may_list_pods(bob, namespace)
    allow_pods(plane, namespace, "for-readers", {"kind": "Group", "name": "readers"})
    assert not may_list_pods(alice, namespace)
    assert may_list_pods(bob, namespace)
    allow_pods(plane, namespace, "for-alice", {"kind": "User", "name": "alice"})
    assert may_list_pods(alice, namespace)
    assert not may_list_pods(alice, "default")


def test_a_service_account_has_a_token_that_rbac_knows(plane: ControlPlane) -> None:
    namespace = plane.make_namespace("accounts")
    kubeconfig = plane.kubeconfig_for_service_account(namespace, "default")
    assert not may_list_pods(kubeconfig, namespace)
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": namespace}
    allow_pods(plane, namespace, "for-default", subject)
    assert may_list_pods(kubeconfig, namespace)


def test_admission_gives_a_pod_its_service_account(plane: ControlPlane) -> None:
    namespace = plane.make_namespace("admission")
    pods = f"/api/v1/namespaces/{namespace}/pods"
    containers = [{"name": "main", "image": "none"}]
    pod = {"metadata": {"name": "a"}, "spec": {"containers": containers}}
    made = plane.request("POST", pods, pod)
    (mount,) = made["spec"]["containers"][0]["volumeMounts"]
    assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    pod["spec"] = {"containers": containers, "serviceAccountName": "nobody"}
    with pytest.raises(ApiError, match="nobody"):
        plane.request("POST", pods, pod)


def test_it_can_be_stopped_and_forgets_when_it_is_wiped(plane: ControlPlane) -> None:
    plane.make_namespace("lost")
    plane.stop_apiserver()
    with pytest.raises(ConnectionRefusedError):
        plane.request("GET", "/readyz")
    plane.wipe()
    with pytest.raises(ApiError) as refused:
        plane.request("GET", "/api/v1/namespaces/lost")
    assert refused.value.status == 404
    assert plane.make_namespace("after") == "after"


def assets(folder: Path, version: str, *more: str) -> Path:
    folder.mkdir(parents=True)
    for name in (*PROGRAMS, *more):
        (folder / name).write_text(f"#!/bin/sh\necho Kubernetes {version}\n")
        (folder / name).chmod(0o755)
    return folder


def test_release_binaries_are_preferred_to_the_built_ones(tmp_path: Path) -> None:
    assets(tmp_path / "lite-llm" / "control-plane-1.20.2", "v1.20.2")
    built = find_programs({"XDG_CACHE_HOME": str(tmp_path)})
    assert built.version == (1, 20)
    assert built.etcd == find_program("etcd", remedy="")
    folder = assets(tmp_path / "assets", "v1.33.0-rc.1", "etcd")
    environ = {"XDG_CACHE_HOME": str(tmp_path), "KUBEBUILDER_ASSETS": str(folder)}
    released = find_programs(environ)
    assert released.version == (1, 33)
    assert released.etcd == str(folder / "etcd")
    (folder / "kube-scheduler").unlink()  # envtest's own folder has none either
    assert find_programs(environ) == built


def test_missing_programs_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(MissingServer, match=r"^no kube-apiserver.*make control-plane.*$"):
        find_programs({"XDG_CACHE_HOME": str(tmp_path)})


def build(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    bash = shutil.which("bash")
    assert bash
    return subprocess.run(
        [bash, str(BUILD)], env=environ, capture_output=True, text=True, timeout=60
    )


def test_the_build_does_nothing_where_there_are_binaries(tmp_path: Path) -> None:
    built = assets(tmp_path / "lite-llm" / "control-plane-1.20.2", "v1.20.2")
    environ = {"XDG_CACHE_HOME": str(tmp_path), "PATH": ""}
    assert build(environ).stdout == f"{built}\n"
    released = assets(tmp_path / "assets", "v1.33.0")
    assert build({**environ, "KUBEBUILDER_ASSETS": str(released)}).stdout == f"{released}\n"


def test_the_build_says_in_one_line_what_it_lacks(tmp_path: Path) -> None:
    result = build({"XDG_CACHE_HOME": str(tmp_path), "PATH": ""})
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "install release binaries and set KUBEBUILDER_ASSETS" in result.stderr


def test_a_second_build_waits_for_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "lite-llm" / "control-plane-1.20.2"
    folder.parent.mkdir()
    bash = shutil.which("bash")
    assert bash
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(
            [bash, "-x", str(BUILD)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "KUBEBUILDER_ASSETS": ""},
        ) as second:  # fmt: skip
            assert second.stderr is not None
            while "flock 9" not in second.stderr.readline():
                assert second.poll() is None
            assets(folder, "v1.20.2")
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert second.communicate(timeout=60)[0] == f"{folder}\n"
