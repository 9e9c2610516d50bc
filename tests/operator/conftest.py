"""One control plane for all tests of the operator, with our definitions, and ways to reach it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lite_llm.contracts.keyspace import ROOT
from lite_llm.metastore import MemoryStore
from lite_llm.testing.control_plane import ApiError, ControlPlane

REPO = Path(__file__).resolve().parents[2]
GROUP_API = "/apis/lite-llm.dev/v1alpha1"
RULES = REPO / "operator" / "lite_llm" / "controllers" / "rbac.yaml"

Body = dict[str, Any]


class Api:
    """The plane as an administrator's client sees it, without blocking the loop."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane

    async def request(self, method: str, path: str, body: Any = None) -> Any:
        return await asyncio.to_thread(self.plane.request, method, path, body)

    async def make(self, body: Body) -> Body:
        return await self.request("POST", collection(body["kind"]), body)  # type: ignore[no-any-return] # JSON

    async def get(self, name: str, kind: str = "LiteLLMModel") -> Body:
        return await self.request("GET", f"{collection(kind)}/{name}")  # type: ignore[no-any-return] # JSON

    async def change(self, name: str, patch: Body, kind: str = "LiteLLMModel") -> Body:
        return await self.request("PATCH", f"{collection(kind)}/{name}", patch)  # type: ignore[no-any-return] # JSON

    async def delete(self, name: str, kind: str = "LiteLLMModel") -> None:
        await self.request("DELETE", f"{collection(kind)}/{name}")

    async def exists(self, name: str, kind: str = "LiteLLMModel") -> bool:
        try:
            await self.get(name, kind)
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return True

    async def condition(self, name: str, type_: str, kind: str = "LiteLLMModel") -> Body:
        """Empty while nobody has set it."""
        told = (await self.get(name, kind)).get("status", {}).get("conditions", [])
        return next((each for each in told if each["type"] == type_), {})

    async def events(self, name: str) -> list[str]:
        """Reasons of the Events about an object."""
        listed = await self.request("GET", "/api/v1/namespaces/default/events")
        return [
            each["reason"] for each in listed["items"] if each["involvedObject"]["name"] == name
        ]

    async def forget_events(self) -> None:
        await self.request("DELETE", "/api/v1/namespaces/default/events")


def collection(kind: str, namespace: str = "default") -> str:
    return f"{GROUP_API}/namespaces/{namespace}/{kind.lower()}s"


def resource(name: str, kind: str = "LiteLLMModel", **spec: Any) -> Body:
    told = {"source": {"uri": "hf://owner/tiny"}, **spec} if kind == "LiteLLMModel" else spec
    api = "lite-llm.dev/v1alpha1"
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": told}


async def wait_until(look: Callable[[], Awaitable[Any]], seconds: float = 30.0) -> Any:
    async with asyncio.timeout(seconds):
        while not (found := await look()):  # noqa: ASYNC110 - an API server has no event to wait on
            await asyncio.sleep(0.05)
    return found


def define(plane: ControlPlane, seconds: float = 30.0) -> None:
    """Apply our definitions, and wait until they are served: a moment later."""
    for path in sorted((REPO / "crds").glob("*.yaml")):
        crd = yaml.safe_load(path.read_text())
        plane.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
    deadline = time.monotonic() + seconds
    for kind in ("LiteLLMModel", "TierSet"):
        while not served(plane, kind):
            assert time.monotonic() < deadline, f"{kind} is not served"
            time.sleep(0.1)


def served(plane: ControlPlane, kind: str) -> bool:
    try:
        plane.request("GET", collection(kind))
    except ApiError as error:
        if error.status != 404:
            raise
        return False
    return True


def bind(plane: ControlPlane, user: str, rules: list[Body], namespace: str = "") -> None:
    """Give ``user`` these rights, everywhere or in one namespace."""
    rbac, group = "/apis/rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io"
    place, scope = (
        (f"{rbac}/namespaces/{namespace}", "Role") if namespace else (rbac, "ClusterRole")
    )
    binding = {
        "metadata": {"name": user},
        "roleRef": {"apiGroup": group, "kind": scope, "name": user},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }
    plane.request("POST", f"{place}/{scope.lower()}s", {"metadata": {"name": user}, "rules": rules})
    plane.request("POST", f"{place}/{scope.lower()}bindings", binding)


@pytest.fixture(scope="session")
def rules() -> dict[str, list[Body]]:
    """The rights that the operator needs, as charts give them."""
    told: dict[str, list[Body]] = yaml.safe_load(RULES.read_text())
    return told


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane() as started:
        define(started)
        yield started


@pytest.fixture(scope="session")
def kubeconfig(plane: ControlPlane, rules: dict[str, list[Body]]) -> str:
    """Of a user with exactly the rights that the operator needs."""
    bind(plane, "operator", rules["objects"])
    bind(plane, "operator", rules["lease"], namespace="default")
    return str(plane.kubeconfig_for("operator"))


@pytest.fixture
async def api(plane: ControlPlane) -> AsyncIterator[Api]:
    """The shared plane; what a test leaves there is gone after it."""
    yield Api(plane)
    await asyncio.to_thread(clear, plane)
    await asyncio.sleep(0.3)  # a TLS connection closed amid an answer outlives its session a little


def clear(plane: ControlPlane) -> None:
    """Remove all our objects, finalizers or not, and the operator's lease."""
    for kind in ("LiteLLMModel", "TierSet"):
        for item in plane.request("GET", collection(kind))["items"]:
            path = f"{collection(kind)}/{item['metadata']['name']}"
            try:
                if item["metadata"].get("finalizers"):
                    plane.request("PATCH", path, {"metadata": {"finalizers": None}})
                plane.request("DELETE", path)
            except ApiError as error:
                if error.status != 404:
                    raise
    leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    for item in plane.request("GET", leases)["items"]:
        plane.request("DELETE", f"{leases}/{item['metadata']['name']}")


@pytest.fixture
def store() -> MemoryStore:
    """Of intent and facts."""
    return MemoryStore()


async def stored(store: MemoryStore) -> set[str]:
    """Keys below our root."""
    listing = await store.list_prefix(ROOT)
    return {entry.key.removeprefix(ROOT) for entry in listing.entries}
