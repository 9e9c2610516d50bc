"""What the chart makes is right by Kubernetes' schemas, by PodSecurity, and in itself."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate  # type: ignore[import-untyped] # it ships none
import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
CHART = REPO / "charts" / "lite-llm"
FOREIGN = ("cert-manager.io", "monitoring.coreos.com")
"""API groups of others' custom resources, for which Kubernetes has no schema."""

KUBERNETES = "1.36"
SCHEMAS = functools.cache(kubernetes_validate.utils.schema_contents)
"""Megabytes, which the library parses anew for each object."""

Objects = list[dict[str, Any]]
Templates = list[tuple[str, dict[str, Any]]]


def test_lint_finds_nothing_but_a_missing_picture() -> None:
    report = helm.lint(CHART, strict=True)
    assert [one["error"] for one in report["messages"]] == ["icon is recommended"]
    assert report["errors"] == []


def test_a_packed_chart_is_whole(tmp_path: Path, chart: helm.Chart) -> None:
    archive = chart.save(tmp_path)
    with helm.Chart.load(archive) as packed:
        text = packed.render({}, name="llm")["lite-llm/templates/crds.yaml"]
    names = {one["metadata"]["name"] for one in yaml.safe_load_all(text) if one}
    ours = {path.stem for path in (REPO / "crds").glob("*.yaml")}
    assert {name.partition(".")[0] for name in names} == ours


@functools.cache
def validated(text: str) -> str:
    """The version of Kubernetes by whose schemas an object, as JSON, is valid; else it raises."""
    return str(kubernetes_validate.validate(json.loads(text), KUBERNETES, strict=True))


def test_every_object_is_valid_by_its_schema(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", SCHEMAS)
    assert objects
    for one in objects:
        if not one["apiVersion"].startswith(FOREIGN):
            assert validated(json.dumps(one, sort_keys=True)) == KUBERNETES


def test_every_object_has_a_name_of_its_own_and_our_labels(objects: Objects) -> None:
    names = [
        (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in objects
    ]
    assert len(set(names)) == len(names)
    for one in objects:
        assert one["metadata"]["labels"]["app.kubernetes.io/part-of"] == "lite-llm"
        assert len(one["metadata"]["name"]) <= 63


def quantities(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything that Kubernetes reads as a quantity, with where it is."""
    if isinstance(value, dict):
        for key, inner in value.items():
            where = f"{path}.{key}"
            if key in ("requests", "limits") and isinstance(inner, dict):
                yield from ((f"{where}.{name}", amount) for name, amount in inner.items())
            elif key in ("sizeLimit", "averageValue", "divisor"):
                yield where, inner
            else:
                yield from quantities(inner, where)
    elif isinstance(value, list):
        for inner in value:
            yield from quantities(inner, path)


def test_quantities_are_strings(objects: Objects) -> None:
    # Server-side apply compares types: a number is refused where a quantity is declared.
    for one in objects:
        if one["kind"] != "CustomResourceDefinition":
            for where, amount in quantities(one):
                assert isinstance(amount, str), f"{one['kind']} {where} is {amount!r}"


def test_selectors_find_the_pods_they_mean(objects: Objects, templates: Templates) -> None:
    labels = [template["metadata"]["labels"] for _, template in templates]
    for one in objects:
        spec = one.get("spec", {})
        if one["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "PodDisruptionBudget"):
            wanted = spec["selector"]["matchLabels"]
        elif one["kind"] == "Service":
            wanted = spec["selector"]
        elif one["kind"] == "NetworkPolicy":
            wanted = spec["podSelector"]["matchLabels"]
        elif one["kind"] in ("PodMonitor", "ServiceMonitor"):
            wanted = spec["selector"]["matchLabels"]
        else:
            continue
        found = [pod for pod in labels if wanted.items() <= pod.items()]
        # One row runs agents alone, and policies for programs that are not there harm nobody.
        if one["kind"] != "NetworkPolicy":
            assert found, f"{one['kind']} {one['metadata']['name']} selects nobody"
        if one["kind"] in ("Deployment", "StatefulSet", "DaemonSet"):
            assert len(found) == 1, "two workloads would fight for each other's Pods"


def test_ports_are_those_that_containers_have(objects: Objects, templates: Templates) -> None:
    ports = {
        (component, port["name"])
        for component, template in templates
        for container in template["spec"]["containers"]
        for port in container.get("ports", ())
    }
    for one in objects:
        component = one["metadata"]["labels"].get("app.kubernetes.io/component")
        if one["kind"] == "Service":
            for port in one["spec"]["ports"]:
                assert (component, port["targetPort"]) in ports
        elif one["kind"] == "PodMonitor":
            for endpoint in one["spec"]["podMetricsEndpoints"]:
                assert (component, endpoint["port"]) in ports
    for component, template in templates:
        for container in template["spec"]["containers"]:
            if component == "farewell":  # a Job, over in seconds
                continue
            for name in ("startupProbe", "livenessProbe", "readinessProbe"):
                ((_, action),) = (
                    (kind, action)
                    for kind, action in container[name].items()
                    if kind in ("httpGet", "tcpSocket")
                )
                assert (component, action["port"]) in ports


def test_volumes_that_are_mounted_exist_and_no_other(
    templates: Templates, objects: Objects
) -> None:
    claims = {
        claim["metadata"]["name"]
        for one in objects
        for claim in one.get("spec", {}).get("volumeClaimTemplates", ())
    }
    for component, template in templates:
        spec = template["spec"]
        volumes = {volume["name"] for volume in spec.get("volumes", ())}
        mounted = {
            mount["name"]
            for container in (*spec.get("initContainers", ()), *spec["containers"])
            for mount in container.get("volumeMounts", ())
        }
        assert mounted - volumes <= (claims if component == "etcd" else set())
        assert volumes <= mounted, component


def test_secrets_that_are_used_are_made_by_somebody(objects: Objects, templates: Templates) -> None:
    made = {one["metadata"]["name"] for one in objects if one["kind"] == "Secret"}
    made |= {one["spec"]["secretName"] for one in objects if one["kind"] == "Certificate"}
    used = {
        volume["secret"]["secretName"]
        for _, template in templates
        for volume in template["spec"].get("volumes", ())
        if "secret" in volume
    }
    if any(one["kind"] in ("Secret", "Certificate") for one in objects) and "llm-ca" in {
        one["metadata"]["name"] for one in objects
    }:
        users_own = {"keys", "etcd"}
        assert used - users_own <= made | {"llm-lite-llm-api-keys"}


def is_restricted(pod: dict[str, Any], container: dict[str, Any]) -> bool:
    """PodSecurity "restricted", as its standard lists it for version 1.30."""
    own = container["securityContext"]
    merged = {**pod["securityContext"], **own}
    return (
        not any(pod.get(field) for field in ("hostNetwork", "hostPID", "hostIPC"))
        and not any("hostPath" in volume for volume in pod.get("volumes", ()))
        and not any("hostPort" in port for port in container.get("ports", ()))
        and not own.get("privileged")
        and own["allowPrivilegeEscalation"] is False
        and own["capabilities"]["drop"] == ["ALL"]
        and set(own["capabilities"].get("add", ())) <= {"NET_BIND_SERVICE"}
        and merged["runAsNonRoot"] is True
        and merged["runAsUser"] != 0
        and merged["seccompProfile"]["type"] == "RuntimeDefault"
    )


def test_all_are_restricted_but_agents_that_use_the_node(templates: Templates) -> None:
    for component, template in templates:
        spec = template["spec"]
        containers = (*spec.get("initContainers", ()), *spec["containers"])
        restricted = all(is_restricted(spec, container) for container in containers)
        uses_node = any("hostPath" in volume for volume in spec.get("volumes", ()))
        assert restricted != uses_node, component
        assert component == "agent" or not uses_node
        assert all(one["securityContext"]["readOnlyRootFilesystem"] for one in containers)


def test_only_the_operator_is_told_who_it_is_to_kubernetes(templates: Templates) -> None:
    for component, template in templates:
        told = template["spec"]["automountServiceAccountToken"]
        assert told == (component in ("operator", "farewell"))


def test_agents_want_gpus_where_there_are_some(render: Any) -> None:
    def agents(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {
            one["metadata"]["name"]: one["spec"]["template"]["spec"]
            for one in render(values)
            if one["kind"] == "DaemonSet"
        }

    (default,) = agents({}).values()
    assert default["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert default["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    pools = {
        "h100": {"gpusPerNode": 8, "nodeSelector": {"gpu": "h100"}},
        "cpu": {"accelerator": "none"},
    }
    both = agents({"agents": {"pools": pools}})
    h100 = both["llm-lite-llm-agent-h100"]
    assert h100["nodeSelector"] == {"gpu": "h100"}
    assert h100["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    cpu = both["llm-lite-llm-agent-cpu"]
    assert "nodeSelector" not in cpu
    assert "limits" not in cpu["containers"][0]["resources"]
    assert "--label=pool=cpu" in cpu["containers"][0]["args"]


@pytest.mark.parametrize("scope", ["cluster", "namespaced"])
def test_the_operator_has_no_more_rights_than_it_says(render: Any, scope: str) -> None:
    values = {"operator": {"scope": scope, "namespaces": ["a", "b"]}}
    kinds: dict[str, list[str]] = {}
    for one in render(values):
        if one["kind"].endswith(("Role", "RoleBinding")) and "aggregate" not in str(one):
            kinds.setdefault(one["kind"], []).append(one["metadata"].get("namespace", ""))
            for rule in one.get("rules", ()):
                assert "*" not in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])
                assert "secrets" not in rule["resources"]
    if scope == "cluster":
        assert kinds["ClusterRole"] == ["", ""], "the operator's, and that of its farewell"
        assert kinds["Role"] == ["serving"]
    else:
        assert "ClusterRole" not in kinds
        assert sorted(kinds["Role"]) == ["a", "a", "b", "b", "serving"]
    assert all(
        len(kinds[kind]) == len(kinds[f"{kind}Binding"]) for kind in kinds if kind[-1] == "e"
    )


def test_the_operator_s_rights_are_its_own_list(render: Any) -> None:
    listed = yaml.safe_load((REPO / "operator/lite_llm/controllers/rbac.yaml").read_text())
    roles = {one["metadata"]["name"]: one for one in render({}) if one["kind"].endswith("Role")}
    assert roles["serving-llm-lite-llm-operator"]["rules"] == listed["objects"]
    (wanted,) = listed["lease"]
    (given,) = roles["llm-lite-llm-operator-leader"]["rules"]
    assert {*given["verbs"], "create"} == set(wanted["verbs"]), "the chart makes the lease"
    (lease,) = (one for one in render({}) if one["kind"] == "Lease")
    assert given["resourceNames"] == [lease["metadata"]["name"]]


def test_a_farewell_is_said_once_it_may_be(objects: Objects) -> None:
    # Helm orders hooks of one weight by their names.
    weights: dict[bool, set[int]] = {True: set(), False: set()}
    for one in objects:
        notes = one["metadata"].get("annotations", {})
        if notes.get("helm.sh/hook") == "post-delete":
            weights[one["kind"] == "Job"].add(int(notes.get("helm.sh/hook-weight", "0")))
    assert not weights[True] or max(weights[False]) < min(weights[True])


def test_dashboards_and_alerts_come_whole(render: Any) -> None:
    on = {name: {"enabled": True} for name in ("rules", "dashboards", "monitors")}
    found = render({"metrics": on})
    rules = [one["spec"] for one in found if one["kind"] == "PrometheusRule"]
    files = sorted((CHART / "rules").glob("*.yaml"))
    assert rules == [yaml.safe_load(path.read_text()) for path in files]
    maps = [one for one in found if one["kind"] == "ConfigMap"]
    shown = {name: text for one in maps for name, text in one["data"].items()}
    assert shown == {path.name: path.read_text() for path in (CHART / "dashboards").glob("*.json")}
    for one in maps:
        assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", one["metadata"]["name"])
        # With the last applied state beside it, kubectl allows a quarter of a MiB.
        assert len(json.dumps(one)) < 256 << 10


def test_a_release_fits_into_its_secret(chart: helm.Chart, tmp_path: Path) -> None:
    # Helm keeps chart and objects, compressed and in base64 twice, in one Secret of a MiB at most.
    assert Path(chart.save(tmp_path)).stat().st_size * (4 / 3) ** 2 < 512 << 10
