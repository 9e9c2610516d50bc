"""The custom resources, field by field, from their schemas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from markdown import code, page, table

LIMITS: dict[str, Callable[[Any], str]] = {
    "enum": lambda value: "one of " + ", ".join(map(str, value)),
    "minimum": lambda value: f"at least {value}",
    "maximum": lambda value: f"at most {value}",
    "maxLength": lambda value: f"{value} characters at most",
    "maxItems": lambda value: f"{value} items at most",
    "maxProperties": lambda value: f"{value} entries at most",
    "pattern": lambda value: f"matches {code(value)}",
    "default": lambda value: f"default {code(str(value))}",
}


def resources_page(folder: Path) -> str:
    """Of every definition in ``folder``."""
    parts = []
    for path in sorted(folder.glob("*.yaml")):
        definition = yaml.safe_load(path.read_text())
        names = definition["spec"]["names"]
        for version in definition["spec"]["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            shown = ", ".join(
                code(name) for name in (names["plural"], *names.get("shortNames", ()))
            )
            rows = [
                (code(where), str(field.get("type", "any")), _limits(field), _told(field))
                for top in ("spec", "status")
                for where, field in _fields(top, schema["properties"].get(top, {}))
            ]
            rules = [
                (code(where), rule.get("message") or rule.get("messageExpression", ""))
                for where, field in _fields("", schema)
                for rule in field.get("x-kubernetes-validations", ())
            ]
            parts.append(f"## {names['kind']}\n\n`{version['name']}`; kubectl knows it as {shown}.")
            parts.append(table(("field", "type", "limits", "what"), rows))
            if rules:
                parts.append("### Rules across fields\n\n" + table(("at", "what is said"), rules))
    return page(
        "Custom resources",
        "Group `lite-llm.dev`. Rules are CEL, so that Kubernetes itself refuses what breaks them.",
        *parts,
    )


def _fields(where: str, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if where or "x-kubernetes-validations" in schema:
        yield where or ".", schema
    for name, field in schema.get("properties", {}).items():
        yield from _fields(f"{where}.{name}".lstrip("."), field)
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            below = _fields(f"{where}[]" if inner == "items" else f"{where}.*", schema[inner])
            yield from below


def _limits(field: dict[str, Any]) -> str:
    return ", ".join(words(field[name]) for name, words in LIMITS.items() if name in field)


def _told(field: dict[str, Any]) -> str:
    return str(field.get("description", ""))
