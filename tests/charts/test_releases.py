"""A release lives on a real API server: made, changed, taken back, removed."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml
from cryptography import x509

from lite_llm.testing.control_plane import ControlPlane
from lite_llm.testing.guard import find_program

CHART = Path(__file__).resolve().parents[2] / "charts" / "lite-llm"
WITHOUT_PODS = {"operator": {"enabled": False}, "etcd": {"persistence": {"enabled": False}}}
"""Without a Node nobody would run the Job of a farewell; volumes go since Kubernetes 1.27."""
PASSING = {"events", "componentstatuses", "apiservices", "pods", "replicasets"}
PASSING |= {"endpoints", "endpointslices", "controllerrevisions"}
"""Resources that controllers make and take away in their own time."""
NAMES = "lite-llm.dev/certificate-for"


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane() as plane:
        yield plane


@pytest.fixture
def space(plane: ControlPlane, request: pytest.FixtureRequest) -> str:
    """A namespace of the test's own."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_")).strip("-")
    return plane.make_namespace(name[-50:].strip("-"))


@pytest.fixture
def config(plane: ControlPlane, space: str) -> Iterator[helm.Config]:
    with helm.Config(kubeconfig_path=plane.kubeconfig, namespace=space) as config:
        yield config


def secrets(plane: ControlPlane, space: str) -> dict[str, dict[str, Any]]:
    """Secrets of the release by name."""
    listed = plane.request("GET", f"/api/v1/namespaces/{space}/secrets")["items"]
    return {
        one["metadata"]["name"]: one
        for one in listed
        if one["metadata"]["name"].startswith("lite-llm-")
        and one["type"] in ("Opaque", "kubernetes.io/tls")
    }


def data(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: one["data"] for name, one in found.items()}


def certificate(secret: dict[str, Any], key: str = "tls.crt") -> x509.Certificate:
    return x509.load_pem_x509_certificate(base64.b64decode(secret["data"][key]))


def test_keys_and_certificates_outlive_an_upgrade_and_a_rollback(
    plane: ControlPlane, config: helm.Config, space: str
) -> None:
    config.install(CHART, "lite-llm", {"crds": {"install": False}})
    first = secrets(plane, space)
    assert set(first) == {
        "lite-llm-ca", "lite-llm-admin-key", "lite-llm-api-keys", "lite-llm-agent-tls",
        "lite-llm-orchestrator-tls", "lite-llm-etcd-tls", "lite-llm-etcd-client-tls",
    }  # fmt: skip
    values = {"operator": {"replicas": 3}, "crds": {"install": False}}
    config.upgrade(CHART, "lite-llm", values)
    path = f"/apis/apps/v1/namespaces/{space}/deployments/lite-llm-operator"
    assert plane.request("GET", path)["spec"]["replicas"] == 3
    assert data(secrets(plane, space)) == data(first)

    config.rollback("lite-llm", version=1)
    assert plane.request("GET", path)["spec"]["replicas"] == 2
    assert data(secrets(plane, space)) == data(first)
    assert [one["revision"] for one in config.history("lite-llm")] == [1, 2, 3]


def test_a_certificate_for_other_names_is_made_anew_by_the_same_authority(
    plane: ControlPlane, config: helm.Config, space: str
) -> None:
    config.install(CHART, "lite-llm", {"crds": {"install": False}, "etcd": {"replicas": 1}})
    first = secrets(plane, space)
    members = f"/apis/apps/v1/namespaces/{space}/statefulsets/lite-llm-etcd"
    plane.request("DELETE", members)  # else another number is refused
    config.upgrade(CHART, "lite-llm", {"crds": {"install": False}, "etcd": {"replicas": 3}})
    then = secrets(plane, space)
    changed = {name for name in first if first[name]["data"] != then[name]["data"]}
    assert changed == {"lite-llm-etcd-tls"}
    made = certificate(then["lite-llm-etcd-tls"])
    made.verify_directly_issued_by(certificate(first["lite-llm-ca"]))
    alternatives = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    names = alternatives.get_values_for_type(x509.DNSName)
    assert f"lite-llm-etcd-2.lite-llm-etcd.{space}.svc" in names
    assert set(names) <= set(then["lite-llm-etcd-tls"]["metadata"]["annotations"][NAMES].split(","))


def test_certificates_name_what_is_checked(
    plane: ControlPlane, config: helm.Config, space: str
) -> None:
    config.install(CHART, "lite-llm", {"crds": {"install": False}})
    found = secrets(plane, space)
    authority = certificate(found["lite-llm-ca"])
    for name in ("agent", "orchestrator", "etcd", "etcd-client"):
        secret = found[f"lite-llm-{name}-tls"]
        certificate(secret).verify_directly_issued_by(authority)
        assert secret["data"]["ca.crt"] == found["lite-llm-ca"]["data"]["tls.crt"]
        extensions = certificate(secret).extensions
        if name == "etcd-client":  # etcd would look its host up
            with pytest.raises(x509.ExtensionNotFound):
                extensions.get_extension_for_class(x509.SubjectAlternativeName)
        elif name != "etcd":
            alternatives = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert "lite-llm.internal" in alternatives.get_values_for_type(x509.DNSName)


def test_tenants_are_added_without_a_new_key(
    plane: ControlPlane, config: helm.Config, space: str
) -> None:
    config.install(CHART, "lite-llm", {"crds": {"install": False}})
    first = secrets(plane, space)
    tenant = {"name": "research", "keys": ["sha256:" + "1" * 64], "models": ["team/*"]}
    values = {"crds": {"install": False}, "apiKeys": {"tenants": [tenant]}}
    config.upgrade(CHART, "lite-llm", values)
    then = secrets(plane, space)
    assert then["lite-llm-admin-key"]["data"] == first["lite-llm-admin-key"]["data"]
    keys = yaml.safe_load(base64.b64decode(then["lite-llm-api-keys"]["data"]["keys.yaml"]))
    assert [one["name"] for one in keys["tenants"]] == ["admin", "research"]
    assert keys["tenants"][1] == tenant


def objects(plane: ControlPlane) -> set[str]:
    """Everything of ours and of Helm's that can be listed."""
    found = set()
    groups = plane.request("GET", "/apis")["groups"]
    for path in ("/api/v1", *(f"/apis/{one['versions'][0]['groupVersion']}" for one in groups)):
        for kind in plane.request("GET", path)["resources"]:
            if "list" in kind["verbs"] and kind["name"] not in PASSING:
                for one in plane.request("GET", f"{path}/{kind['name']}")["items"]:
                    meta = one["metadata"]
                    found.add(f"{kind['kind']} {meta.get('namespace', '')}/{meta['name']}")
    return found


def test_crds_come_are_upgraded_and_stay_or_go_by_choice(
    plane: ControlPlane, config: helm.Config, space: str, tmp_path: Path
) -> None:
    before = objects(plane)
    config.install(CHART, "lite-llm", WITHOUT_PODS)
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    crds = {
        f"CustomResourceDefinition /{name}.lite-llm.dev" for name in ("litellmmodels", "tiersets")
    }
    assert crds < objects(plane) - before

    newer = shutil.copytree(CHART, tmp_path / "lite-llm")
    tier_sets = newer / "files" / "crds" / "tiersets.yaml"
    tier_sets.write_text(tier_sets.read_text().replace("shortNames: [", "shortNames: [newer, "))
    config.upgrade(newer, "lite-llm", WITHOUT_PODS)
    (name,) = (one for one in crds if "tiersets" in one)
    crd = plane.request("GET", f"{path}/{name.partition('/')[2]}")
    assert "newer" in crd["spec"]["names"]["shortNames"], "Helm leaves a chart's crds folder alone"

    config.uninstall("lite-llm")
    assert objects(plane) - before == crds, "with them all models would go"

    config.install(CHART, "lite-llm", {**WITHOUT_PODS, "crds": {"keep": False}})
    config.uninstall("lite-llm", wait="watcher", timeout=60)
    assert objects(plane) == before


def test_an_upgrade_that_would_break_is_refused(config: helm.Config, space: str) -> None:
    settled = {**WITHOUT_PODS, "crds": {"install": False}}
    config.install(CHART, "lite-llm", settled)
    five = {"persistence": {"enabled": False}, "replicas": 5}
    with pytest.raises(helm.HelmError, match=r"etcd\.replicas was 3"):
        config.upgrade(CHART, "lite-llm", {**settled, "etcd": five})
    with pytest.raises(helm.HelmError, match=r"tls\.mode was selfMade"):
        config.upgrade(CHART, "lite-llm", {**settled, "tls": {"mode": "certManager"}})
    config.upgrade(CHART, "lite-llm", settled)


@pytest.mark.parametrize("cloud", ["eks", "aks", "gke", "bare-metal"])
def test_what_clouds_get_passes_admission(
    plane: ControlPlane, config: helm.Config, space: str, cloud: str
) -> None:
    before = objects(plane)
    values = yaml.safe_load((CHART / f"values-{cloud}.yaml").read_text())
    released = config.install(CHART, "lite-llm", values, dry_run="server")
    command = [find_program("kubectl", remedy="run make setup"), f"--kubeconfig={plane.kubeconfig}"]
    command += ["apply", "--server-side", "--dry-run=server", f"-n={space}", "-f", "-"]
    applied = subprocess.run(
        command, input=released["manifest"], capture_output=True, text=True, check=False
    )
    assert applied.returncode == 0, applied.stderr
    assert applied.stdout.count("serverside-applied (server dry run)") >= 30
    assert objects(plane) == before, "nothing was written"
