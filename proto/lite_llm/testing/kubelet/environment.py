"""What the variables of a container are: literals, references, and fields of its Pod. Pure."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

Object = Mapping[str, Any]
"""A Kubernetes object, or a part of one, as its JSON says it."""

_REFERENCE = re.compile(r"\$(?:\$|\(([^()]*)\))")
_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_QUANTITY = re.compile(r"([+-]?[\d.]+)(?:e(-?\d+))?(m|[kMGTPE]?i?)")
_POWER = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}


class Unstartable(Exception):
    """A container cannot be started as asked: ``reason`` is what its status shows."""

    def __init__(self, message: str, reason: str = "CreateContainerConfigError") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Place:
    """Where a Pod runs, as its fields tell it."""

    node: str
    host_ip: str
    pod_ip: str
    allocatable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sources:
    """The ConfigMaps and Secrets of a Pod's namespace that it names and that exist."""

    config_maps: Mapping[str, Object] = field(default_factory=dict)
    secrets: Mapping[str, Object] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    """Tokens of the Pod's ServiceAccount, by audience; ``""`` is the apiserver itself."""

    def data(self, kind: str, reference: Object) -> Mapping[str, bytes]:
        """Keys and values of a ``configMap`` or ``secret``; none if optional and absent."""
        name = reference.get("name") or reference.get("secretName") or ""
        found = (self.config_maps if kind == "configMap" else self.secrets).get(name)
        if found is None:
            if reference.get("optional"):
                return {}
            raise Unstartable(f'{kind.lower()} "{name}" not found')
        plain = found.get("data") or {}
        if kind == "secret":
            return {key: base64.b64decode(value) for key, value in plain.items()}
        binary = found.get("binaryData") or {}
        return {key: value.encode() for key, value in plain.items()} | {
            key: base64.b64decode(value) for key, value in binary.items()
        }

    def key(self, kind: str, reference: Object) -> bytes | None:
        """One value; None where it may be absent and is."""
        value = self.data(kind, reference).get(reference["key"])
        if value is None and not reference.get("optional"):
            name = reference.get("name", "")
            raise Unstartable(f"couldn't find key {reference['key']} in {kind} {name}")
        return value


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` by its value; ``$$`` is one dollar, unknown names stay as they are."""

    def replaced(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return _REFERENCE.sub(replaced, text)


def pod_field(path: str, pod: Object, place: Place) -> str:
    """A field that the downward API offers, as text; labels and annotations one pair a line."""
    meta, spec = pod["metadata"], pod["spec"]
    if match := re.fullmatch(r"metadata\.(labels|annotations)(?:\['([^']+)'\])?", path):
        pairs: Mapping[str, str] = meta.get(match[1]) or {}
        if match[2]:
            return pairs.get(match[2], "")
        lines = (f'{key}="{_quoted(value)}"' for key, value in sorted(pairs.items()))
        return "\n".join(lines)
    known = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta["namespace"],
        "metadata.uid": meta["uid"],
        "spec.nodeName": place.node,
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.hostIP": place.host_ip,
        "status.hostIPs": place.host_ip,
        "status.podIP": place.pod_ip,
        "status.podIPs": place.pod_ip,
    }
    if path not in known:
        raise Unstartable(f"field {path} is not known to the downward API")
    return str(known[path])


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def quantity(text: str) -> Decimal:
    """A Kubernetes quantity, ``1500m`` or ``2Gi``, as a number."""
    match = _QUANTITY.fullmatch(text)
    if not match:
        raise Unstartable(f"{text!r} is no quantity")
    number = Decimal(match[1]) * Decimal(10) ** int(match[2] or 0)
    if match[3] == "m":
        return number / 1000
    scale = 1024 if match[3].endswith("i") else 1000
    return number * Decimal(scale) ** _POWER[match[3].rstrip("i")]


def resource_field(reference: Object, container: Object, place: Place) -> str:
    """A limit or request of the container, in units of the divisor, rounded up."""
    kind, _, name = reference["resource"].partition(".")
    resources = container.get("resources") or {}
    limit = (resources.get("limits") or {}).get(name)
    given = limit if kind == "limits" else (resources.get("requests") or {}).get(name, limit)
    amount = quantity(given or place.allocatable.get(name, "0"))
    divisor = quantity(reference.get("divisor") or "1")
    return str(math.ceil(amount / (divisor or 1)))


def variables_of(
    container: Object, pod: Object, place: Place, sources: Sources, given: Mapping[str, str]
) -> dict[str, str]:
    """All variables of a container, on top of those ``given`` to every one.

    Raises:
        Unstartable: a reference leads nowhere.
    """
    variables = dict(given)
    for origin in container.get("envFrom") or ():
        kind = "configMap" if "configMapRef" in origin else "secret"
        for key, data in sources.data(kind, origin[f"{kind}Ref"]).items():
            name = origin.get("prefix", "") + key
            if _VARIABLE.fullmatch(name):  # others are skipped, as Kubernetes documents
                variables[name] = data.decode()
    for entry in container.get("env") or ():
        value = _value(entry, container, pod, place, sources, variables)
        if value is not None:
            variables[entry["name"]] = value
    return variables


def _value(
    entry: Object,
    container: Object,
    pod: Object,
    place: Place,
    sources: Sources,
    variables: Mapping[str, str],
) -> str | None:
    origin = entry.get("valueFrom")
    if not origin:
        return expand(entry.get("value") or "", variables)
    ((kind, reference),) = origin.items()
    if kind == "fieldRef":
        return pod_field(reference["fieldPath"], pod, place)
    if kind == "resourceFieldRef":
        owner = named(reference.get("containerName"), pod["spec"]["containers"]) or container
        return resource_field(reference, owner, place)
    if kind in ("configMapKeyRef", "secretKeyRef"):
        found = sources.key(kind.removesuffix("KeyRef"), reference)
        return None if found is None else found.decode()
    raise Unstartable(f"variable {entry['name']} comes from {kind}, which is not known here")


def named(name: str | None, things: Sequence[Object]) -> Object | None:
    """The one of ``things`` that is called ``name``."""
    return next((thing for thing in things if thing["name"] == name), None)
