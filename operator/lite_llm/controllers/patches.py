"""JSON patches that change what is ours and refuse to overwrite what they did not see. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lite_llm.controllers.specs import Body

Patch = list[dict[str, Any]]

FINALIZER = "lite-llm.dev/withdraw"


def status_patch(body: Body, status: Mapping[str, Any]) -> Patch:
    """From the status that ``body`` has to ``status``; empty if they are equal.

    Conditions are replaced as a list, so the patch first tests that it is still the list that was
    read: what another wrote in between makes it fail. A change of the spec does not.
    """
    before = body.get("status") or {}
    if before == status:
        return []
    if "conditions" not in before:
        return [_unchanged(body), {"op": "add", "path": "/status", "value": dict(status)}]
    patch: Patch = [_test("/status/conditions", before["conditions"])]
    for name in sorted(before.keys() | status.keys()):
        path = f"/status/{name}"
        if name not in status:
            patch.append({"op": "remove", "path": path})
        elif before.get(name) != status[name]:
            patch.append({"op": "add", "path": path, "value": status[name]})
    return patch


def finalizer_patch(body: Body, *, wanted: bool) -> Patch:
    """Put our finalizer on, or take it off; empty where that is done."""
    before = list(body["metadata"].get("finalizers", []))
    if (FINALIZER in before) == wanted:
        return []
    if not wanted:
        place = f"/metadata/finalizers/{before.index(FINALIZER)}"
        return [_test(place, FINALIZER), {"op": "remove", "path": place}]
    if before:
        return [_unchanged(body), _add("/metadata/finalizers/-", FINALIZER)]
    return [_unchanged(body), _add("/metadata/finalizers", [FINALIZER])]


def _unchanged(body: Body) -> dict[str, Any]:
    return _test("/metadata/resourceVersion", body["metadata"]["resourceVersion"])


def _test(path: str, value: Any) -> dict[str, Any]:
    return {"op": "test", "path": path, "value": value}


def _add(path: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}
