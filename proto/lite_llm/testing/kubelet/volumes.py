"""What lies in a Pod's volumes: files made of ConfigMaps, Secrets and fields. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lite_llm.testing.kubelet.environment import (
    Object,
    Place,
    Sources,
    Unstartable,
    named,
    pod_field,
    resource_field,
)

DEFAULT_MODE = 0o644
MADE_OF_FILES = ("configMap", "secret", "downwardAPI", "projected")
KINDS = (*MADE_OF_FILES, "emptyDir", "hostPath")


@dataclass(frozen=True)
class File:
    """A file of a volume, with its permission bits."""

    content: bytes
    mode: int = DEFAULT_MODE


@dataclass(frozen=True)
class References:
    """What must be fetched before a Pod can start; tokens as seconds of validity by audience."""

    config_maps: frozenset[str]
    secrets: frozenset[str]
    tokens: Mapping[str, int]


def kind_of(volume: Object) -> str:
    """The kind of a volume; Unstartable where this kubelet has none such."""
    (kind,) = (key for key in volume if key != "name")
    if kind not in KINDS:
        raise Unstartable(f"volume {volume['name']} is a {kind}, which processes cannot have")
    return kind


def files_of(volume: Object, pod: Object, place: Place, sources: Sources) -> dict[str, File]:
    """Files of a volume by their path in it; empty for kinds that are not made of files.

    Raises:
        Unstartable: something that it is made of does not exist.
    """
    kind = kind_of(volume)
    if kind not in MADE_OF_FILES:
        return {}
    source = volume[kind]
    mode = source.get("defaultMode", DEFAULT_MODE)
    parts = source["sources"] if kind == "projected" else [{kind: source}]
    return {
        path: file
        for part in parts
        for path, file in _files(part, mode, pod, place, sources).items()
    }


def _files(part: Object, mode: int, pod: Object, place: Place, sources: Sources) -> dict[str, File]:
    ((kind, source),) = part.items()
    if kind in ("configMap", "secret"):
        return _items(kind, source, mode, sources)
    if kind == "downwardAPI":
        return {
            item["path"]: File(_field(item, pod, place).encode(), item.get("mode", mode))
            for item in source.get("items") or ()
        }
    if kind == "serviceAccountToken":
        return {source["path"]: File(sources.tokens[source.get("audience", "")].encode(), mode)}
    raise Unstartable(f"a projected volume has a {kind}, which is not known here")


def _items(kind: str, source: Object, mode: int, sources: Sources) -> dict[str, File]:
    data = sources.data(kind, source)
    if not source.get("items"):
        return {key: File(value, mode) for key, value in data.items()}
    chosen = {}
    for item in source["items"]:
        if item["key"] in data:
            chosen[item["path"]] = File(data[item["key"]], item.get("mode", mode))
        elif not source.get("optional"):
            raise Unstartable(f"{kind} references non-existent key {item['key']}")
    return chosen


def _field(item: Object, pod: Object, place: Place) -> str:
    if "fieldRef" in item:
        return pod_field(item["fieldRef"]["fieldPath"], pod, place)
    reference = item["resourceFieldRef"]
    container = named(reference["containerName"], pod["spec"]["containers"])
    if container is None:
        raise Unstartable(f"there is no container {reference['containerName']}")
    return resource_field(reference, container, place)


def references(pod: Object) -> References:
    """All ConfigMaps, Secrets and tokens that the containers and volumes of a Pod name."""
    spec = pod["spec"]
    parts = [part for volume in spec.get("volumes") or () for part in _parts(volume)]
    for container in (*(spec.get("initContainers") or ()), *spec["containers"]):
        parts += [
            entry["valueFrom"] for entry in container.get("env") or () if "valueFrom" in entry
        ]
        parts += container.get("envFrom") or ()
    names: dict[str, set[str]] = {"configMap": set(), "secret": set()}
    tokens = {}
    for part in parts:
        for key, source in part.items():
            kind = key.removesuffix("KeyRef").removesuffix("Ref")
            if kind in names:
                names[kind].add(source.get("name") or source.get("secretName") or "")
            elif kind == "serviceAccountToken":
                tokens[source.get("audience", "")] = source.get("expirationSeconds", 3600)
    return References(frozenset(names["configMap"]), frozenset(names["secret"]), tokens)


def _parts(volume: Object) -> Iterator[Object]:
    if "projected" in volume:
        yield from volume["projected"]["sources"]
    else:
        yield {key: source for key, source in volume.items() if key in MADE_OF_FILES}
