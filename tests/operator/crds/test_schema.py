"""Conventions that our definitions keep, field by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lite_llm.testing.custom_resources import CustomResource

CRDS = Path(__file__).resolve().parents[3] / "crds"
KINDS = [CustomResource(path) for path in sorted(CRDS.glob("*.yaml"))]
MODEL, TIER_SET = KINDS


def fields(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every field below a schema, with its path."""
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}.{name}", inner
        yield from fields(inner, f"{path}.{name}")
    if "items" in schema:
        yield from fields(schema["items"], f"{path}[]")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_every_field_is_described_and_bounded(kind: CustomResource) -> None:
    for path, field in fields(kind.schema):
        assert field["description"].endswith("."), path
        if field["type"] == "string":
            assert "maxLength" in field or "enum" in field or "format" in field, path
        if field["type"] == "array":
            assert "maxItems" in field, path
            assert field["x-kubernetes-list-type"] in ("set", "map", "atomic"), path
        if "additionalProperties" in field:
            assert "maxProperties" in field, path
        if field["type"] == "integer":
            assert "format" in field, path
            assert path.startswith(".status") or {"minimum", "maximum"} <= field.keys(), path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_conditions_are_kubernetes_own(kind: CustomResource) -> None:
    conditions = dict(fields(kind.schema))[".status.conditions"]
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert set(conditions["items"]["required"]) == {
        "type", "status", "reason", "message", "lastTransitionTime",
    }  # fmt: skip
    assert "status" in kind.version["subresources"]
    assert kind.definition["spec"]["names"]["categories"] == ["lite-llm"]


def test_names_for_people() -> None:
    shown = [column["name"] for column in MODEL.version["additionalPrinterColumns"]]
    assert shown[:6] == ["Ready", "State", "Tier", "Replicas", "Model", "Age"]
    assert [kind.definition["spec"]["names"]["shortNames"] for kind in KINDS] == [
        ["llmodel"],
        ["tset"],
    ]


def test_scale_leads_to_fields_that_exist() -> None:
    known = dict(fields(MODEL.schema))
    for path in MODEL.version["subresources"]["scale"].values():
        assert path in known


def test_what_is_not_well_formed_is_refused() -> None:
    source = {"uri": "hf://owner/tiny"}
    wrong: list[dict[str, Any]] = [
        {"source": {"uri": "ftp://x"}},
        {"source": source, "backend": "abacus"},
        {"source": {}},
        {"source": source, "replicas": 3},
        {"source": source, "version": "1.0"},
        {"source": source, "resources": {"memory": "lots"}},
        {"source": source, "access": {"tenants": []}},
        {"source": source, "cache": {"pinnedTiers": ["a"] * 65}},
    ]
    for spec in wrong:
        assert MODEL.faults({"metadata": {"name": "m"}, "spec": spec}), spec
    assert TIER_SET.faults({"metadata": {"name": "t"}, "spec": {"tiers": []}})
