"""Values that make no sense are refused, by words that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import jsonschema
import pytest

REPO = Path(__file__).resolve().parents[2]

REFUSED_BY_SCHEMA: list[tuple[dict[str, Any], str]] = [
    ({"orchestrater": {}}, "orchestrater"),
    ({"orchestrator": {"replica": 3}}, "replica"),
    ({"orchestrator": {"replicas": "three"}}, "got string, want integer"),
    ({"orchestrator": {"registry": {"stores": ["/models"]}}}, "does not match pattern"),
    ({"agents": {"accelerator": "amd"}}, "'nvidia', 'none'"),
    ({"agents": {"memory": "48 gigs"}}, "does not match pattern"),
    ({"agents": {"resources": {"requests": {"cpu": "two"}}}}, "does not match pattern"),
    ({"agents": {"resources": {"request": {"cpu": "2"}}}}, "request"),
    ({"agents": {"pools": {"H100": {}}}}, "H100"),
    ({"agents": {"pools": {"a": {"pools": {}}}}}, "pools"),
    ({"etcd": {"replicas": 2}}, "1, 3, 5"),
    ({"etcd": {"external": {"endpoints": ["etcd:2379"]}}}, "does not match pattern"),
    ({"tls": {"mode": "yes"}}, "selfMade"),
    ({"apiKeys": {"tenants": [{"keys": []}]}}, "name"),
    ({"apiKeys": {"tenants": [{"name": "a", "keys": ["sk-plain"]}]}}, "does not match pattern"),
    ({"operator": {"image": {"digest": "sha256:short"}}}, "does not match pattern"),
    ({"metrics": {"monitors": {"interval": "often"}}}, "does not match pattern"),
]
REFUSED_TOGETHER: list[tuple[dict[str, Any], str]] = [
    ({"etcd": {"mode": "external"}}, "list the members of your etcd"),
    (
        {"etcd": {"mode": "external", "external": {"endpoints": ["https://a:1"]}}},
        "tlsSecret is empty",
    ),
    (
        {"etcd": {"mode": "external", "external": {"endpoints": ["http://a:1"], "tlsSecret": "x"}}},
        "write https://",
    ),
    ({"apiKeys": {"mode": "existing"}}, "name the Secret that holds keys.yaml"),
    ({"orchestrator": {"ingress": {"enabled": True}}}, "ingress without a host"),
    (
        {"orchestrator": {"autoscaling": {"minReplicas": 20}}},
        "minReplicas is more than maxReplicas",
    ),
    ({"agents": {"storage": {"type": "ephemeral"}}}, "storageClassName is empty"),
]


@pytest.mark.parametrize(("values", "words"), REFUSED_BY_SCHEMA, ids=lambda one: str(one)[:40])
def test_the_schema_refuses(chart: helm.Chart, values: dict[str, Any], words: str) -> None:
    with pytest.raises(helm.HelmError) as caught:
        chart.validate_schema(chart.merge_values(values))
    assert words in str(caught.value)


@pytest.mark.parametrize(("values", "words"), REFUSED_TOGETHER, ids=lambda one: str(one)[:40])
def test_combinations_are_refused(chart: helm.Chart, values: dict[str, Any], words: str) -> None:
    chart.validate_schema(chart.merge_values(values))
    with pytest.raises(helm.HelmError) as caught:
        chart.render(values, name="llm")
    assert words in str(caught.value)


def unknown(value: Any, schema: Any, definitions: Any, path: str = "") -> Iterator[str]:
    """Where defaults have a key that the schema does not list, and the other way round."""
    schema = definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    properties = schema.get("properties")
    if not isinstance(value, dict) or properties is None:
        return
    for key in value.keys() ^ properties.keys():
        yield f"{path}.{key}"
    for key in value.keys() & properties.keys():
        yield from unknown(value[key], properties[key], definitions, f"{path}.{key}")


def test_schema_and_defaults_know_the_same_values(chart: helm.Chart) -> None:
    schema = chart.schema
    assert schema is not None
    jsonschema.Draft7Validator.check_schema(schema)
    found = set(unknown(chart.values, schema, schema["definitions"]))
    optional = {f".tls.certManager.issuerRef.{name}" for name in ("name", "kind", "group")}
    assert found == {".global", *optional}


def test_every_value_is_used(chart: helm.Chart) -> None:
    text = "".join(one["data"] for one in chart.templates)
    for top, inner in chart.values.items():
        for key in inner if isinstance(inner, dict) else ():
            assert f".{key}" in text or f'"{key}"' in text, f"{top}.{key} changes nothing"


def test_notes_show_the_next_command(chart: helm.Chart) -> None:
    notes = chart.render({}, name="llm", namespace="serving")["lite-llm/templates/NOTES.txt"]
    assert "kubectl -n serving port-forward service/llm-lite-llm 8080:80" in notes
    assert "get secret llm-lite-llm-admin-key" in notes
    assert "WARNING" not in notes
    values = {
        "tls": {"mode": "none"},
        "apiKeys": {"mode": "none"},
        "agents": {"storage": {"type": "hostPath"}},
    }
    bold = chart.render(values, name="llm", namespace="serving")["lite-llm/templates/NOTES.txt"]
    assert bold.count("WARNING") == 2
    assert "pod-security.kubernetes.io/enforce=privileged" in bold
