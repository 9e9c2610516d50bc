"""The chart, rendered by Helm's own engine for many values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
CHART = REPO / "charts" / "lite-llm"
CLOUDS = ("eks", "aks", "gke", "bare-metal")
DIGEST = "sha256:" + "0" * 64
EVERYTHING_ON: dict[str, Any] = {
    "labels": {"team": "models"},
    "annotations": {"example.com/owner": "models"},
    "image": {"tag": "1.2.3", "pullSecrets": ["registry"]},
    "operator": {"doorUrl": "https://llm.example.com", "image": {"digest": DIGEST}},
    "orchestrator": {
        "ingress": {"enabled": True, "host": "llm.example.com", "tlsSecret": "llm"},
        "registry": {"stores": ["s3://one/models", "gs://two/models"]},
        "autoscaling": {"metrics": [{"type": "Pods", "pods": {
            "metric": {"name": "held"}, "target": {"type": "AverageValue", "averageValue": "4"}}}]},
        "extraArgs": ["--log-level=debug"],
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    },
    "agents": {
        "memory": "48GiB", "warmMemory": "16GiB", "kvMemory": "4GiB", "cache": "300GiB",
        "prefork": False, "zone": "a", "priceClass": "spot",
        "nodeLabels": {"rack": "7"}, "runtimeClassName": "nvidia", "priorityClassName": "high",
        "storage": {"type": "hostPath"},
        "resources": {"requests": {"cpu": 4, "memory": "64Gi"}, "limits": {"memory": "128Gi"}},
    },
    "credentialsSecret": "stores",
    "apiKeys": {"tenants": [{"name": "research", "keys": [DIGEST], "models": ["team/*"]}]},
    "metrics": {
        "monitors": {"enabled": True}, "rules": {"enabled": True}, "dashboards": {"enabled": True}},
}  # fmt: skip
MATRIX: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything on": EVERYTHING_ON,
    "pools": {
        "agents": {
            "pools": {
                "h100": {"gpusPerNode": 8, "nodeSelector": {"gpu": "h100"}},
                "cpu": {"accelerator": "none", "nodeSelector": {"cpu": "true"}},
            }
        }
    },
    "local volumes": {"agents": {"storage": {"type": "ephemeral", "storageClassName": "local"}}},
    "on cpus": {
        "agents": {"accelerator": "none"}, "orchestrator": {"autoscaling": {"enabled": False}}},
    "one namespace": {"operator": {"scope": "namespaced"}},
    "two namespaces": {"operator": {"scope": "namespaced", "namespaces": ["a", "b"]}},
    "cert-manager": {"tls": {"mode": "certManager"}},
    "issuer": {"tls": {"mode": "certManager", "certManager": {"issuerRef": {
        "name": "x", "kind": "ClusterIssuer"}}}},
    "own certificates": {"tls": {"mode": "existing"}},
    "plain": {
        "tls": {"mode": "none"}, "apiKeys": {"mode": "none"},
        "networkPolicies": {"enabled": False}},
    "external etcd": {"etcd": {"mode": "external", "external": {
        "endpoints": ["https://a:2379", "https://b:2379"],
        "tlsSecret": "etcd", "userSecret": "user"}}},
    "plain external etcd": {
        "etcd": {"mode": "external", "external": {"endpoints": ["http://a:2379"]}}},
    "one etcd": {"etcd": {"replicas": 1, "persistence": {"enabled": False}}},
    "own keys": {"apiKeys": {"mode": "existing", "existingSecret": "keys"}},
    "agents alone": {
        "operator": {"enabled": False}, "orchestrator": {"enabled": False},
        "crds": {"install": False}},
    "no agents": {"agents": {"enabled": False}},
    "own accounts": {"agents": {"serviceAccount": {"create": False, "name": "mine"}}},
    "single operator": {"operator": {"replicas": 1}},
    "crds go": {"crds": {"keep": False}},
}  # fmt: skip
MATRIX |= {cloud: yaml.safe_load((CHART / f"values-{cloud}.yaml").read_text()) for cloud in CLOUDS}

Render = Callable[[dict[str, Any]], list[dict[str, Any]]]


@pytest.fixture(scope="session")
def chart() -> Iterator[helm.Chart]:
    with helm.Chart.load(CHART) as chart:
        yield chart


@pytest.fixture(scope="session")
def render(chart: helm.Chart) -> Render:
    """Objects for values, in release ``llm`` of namespace ``serving``."""

    def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
        chart.validate_schema(chart.merge_values(values))
        files = chart.render(values, name="llm", namespace="serving")
        return [
            found
            for path, text in files.items()
            if path.endswith(".yaml")
            for found in yaml.load_all(text, Loader=yaml.CSafeLoader)
            if found
        ]

    return rendered


@pytest.fixture(scope="session", params=MATRIX)
def objects(request: pytest.FixtureRequest, render: Render) -> list[dict[str, Any]]:
    """What the chart makes of one row of the matrix."""
    return render(MATRIX[request.param])


@pytest.fixture(scope="session")
def templates(objects: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Component and Pod template of each workload of one row."""
    found = []
    for one in objects:
        if one["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            template = one["spec"]["template"]
            component = template["metadata"]["labels"]["app.kubernetes.io/component"]
            found.append((component, template))
    return found
