"""What an API server does to a custom resource that it is sent, as far as the CRD's schema says.

Defaults, structure and rules in CEL are applied in the server's order, so that rules can be tried
where no server is at hand that knows them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cel
import jsonschema
import yaml

Schema = Mapping[str, Any]
RULES = "x-kubernetes-validations"
MAP_KEYS = "x-kubernetes-list-map-keys"


class CustomResource:
    """One kind, by the CRD in a file."""

    def __init__(self, path: Path) -> None:
        self.definition: dict[str, Any] = yaml.safe_load(path.read_text())
        self.version: dict[str, Any] = self.definition["spec"]["versions"][0]
        self.schema: Schema = self.version["schema"]["openAPIV3Schema"]
        self.kind: str = self.definition["spec"]["names"]["kind"]

    def defaulted(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """``body`` with the schema's defaults."""
        filled: dict[str, Any] = copy.deepcopy(dict(body))
        _fill(self.schema, filled)
        return filled

    def faults(self, body: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> list[str]:
        """Why the server would refuse ``body``; rules run only on what is well formed.

        ``old`` makes it a change of that object: rules that speak of ``oldSelf`` run then alone.
        """
        new = self.defaulted(body)
        checker = jsonschema.Draft4Validator(_strict(self.schema))
        if wrong := [
            f"{error.json_path}: {error.message}" for error in checker.iter_errors(_bare(new))
        ]:
            return wrong
        return list(_broken(self.schema, new, self.defaulted(old) if old else None))

    def rules(self) -> Iterator[tuple[str, str]]:
        """Path and message of every rule in the schema."""
        yield from _rules(self.schema, "")


def _bare(body: Mapping[str, Any]) -> dict[str, Any]:
    """Without what every object has and no CRD's schema describes."""
    return {key: body[key] for key in body if key not in ("apiVersion", "kind", "metadata")}


def _fill(schema: Schema, value: Any) -> None:
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if "default" in inner:
                value.setdefault(name, copy.deepcopy(inner["default"]))
            if name in value:
                _fill(inner, value[name])
    elif isinstance(value, list):
        for item in value:
            _fill(schema.get("items", {}), item)


def _strict(schema: Schema) -> dict[str, Any]:
    """As JSON Schema that refuses unknown fields, as strict decoding does."""
    strict: dict[str, Any] = {key: schema[key] for key in schema if not key.startswith("x-")}
    if "properties" in schema:
        strict["properties"] = {
            name: _strict(inner) for name, inner in schema["properties"].items()
        }
        strict["additionalProperties"] = False
    if "items" in schema:
        strict["items"] = _strict(schema["items"])
    return strict


def _broken(schema: Schema, new: Any, old: Any) -> Iterator[str]:
    for rule in schema.get(RULES, ()):
        is_transition = "oldSelf" in rule["rule"]
        if is_transition and old is None:
            continue
        known = {"self": new, "oldSelf": old} if is_transition else {"self": new}
        if cel.evaluate(rule["rule"], known) is not True:
            yield rule["message"]
    if isinstance(new, dict):
        before = old if isinstance(old, dict) else {}
        for name, inner in schema.get("properties", {}).items():
            if name in new:
                yield from _broken(inner, new[name], before.get(name))
    elif isinstance(new, list):
        items, keys = schema.get("items", {}), schema.get(MAP_KEYS, ())
        for item in new:
            yield from _broken(items, item, _counterpart(item, old or [], keys))


def _counterpart(item: Any, old: Sequence[Any], keys: Sequence[str]) -> Any:
    """The item that was this one: items are known by their keys, and without keys by nothing."""
    if not keys:
        return None
    return next((was for was in old if all(was.get(key) == item.get(key) for key in keys)), None)


def _rules(schema: Schema, path: str) -> Iterator[tuple[str, str]]:
    yield from ((path, rule["message"]) for rule in schema.get(RULES, ()))
    for name, inner in schema.get("properties", {}).items():
        yield from _rules(inner, f"{path}.{name}")
    if "items" in schema:
        yield from _rules(schema["items"], f"{path}[]")
