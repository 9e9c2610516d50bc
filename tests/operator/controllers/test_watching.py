"""Custom resources on a real API server, mirrored into a store by the real operator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import InvalidSettings, StoreUnavailable
from lite_llm.contracts.keyspace import ModelKey, key_of
from lite_llm.controllers import OperatorSettings, running
from lite_llm.metastore import MemoryStore
from lite_llm.proto.v1.model_pb2 import ModelSpec
from lite_llm.testing.control_plane import ApiError, ControlPlane
from lite_llm.wire import loads

CRDS = Path(__file__).resolve().parents[3] / "crds"
API = "/apis/lite-llm.dev/v1alpha1/namespaces/default/litellmmodels"
RULES = [
    {"apiGroups": ["lite-llm.dev"], "resources": ["litellmmodels"], "verbs": ["list", "watch"]},
    {"apiGroups": ["lite-llm.dev"], "resources": ["litellmmodels/status"], "verbs": ["patch"]},
]


def resource(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "lite-llm.dev/v1alpha1",
        "kind": "LiteLLMModel",
        "metadata": {"name": name},
        "spec": {"source": {"uri": "hf://owner/tiny"}, **spec},
    }


async def eventually(look: Callable[[], Awaitable[Any]], seconds: float = 30.0) -> Any:
    """The first true result of ``look``."""
    async with asyncio.timeout(seconds):
        while not (found := await look()):  # noqa: ASYNC110 - an API server has no event to wait on
            await asyncio.sleep(0.05)
    return found


def await_served(plane: ControlPlane, seconds: float = 30.0) -> None:
    """A CRD that was accepted is served a moment later."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            plane.request("GET", API)
        except ApiError as error:
            if error.status != 404 or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def install_crds(plane: ControlPlane) -> None:
    for path in sorted(CRDS.glob("*.yaml")):
        crd = yaml.safe_load(path.read_text())
        plane.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
    await_served(plane)


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane() as started:
        install_crds(started)
        yield started


@pytest.fixture(scope="module")
def kubeconfig(plane: ControlPlane) -> str:
    """Of a user with exactly the rights that the operator needs."""
    rbac, group = "/apis/rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io"
    role = {"metadata": {"name": "operator"}, "rules": RULES}
    binding = {
        "metadata": {"name": "operator"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "operator"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "operator"}],
    }
    plane.request("POST", f"{rbac}/clusterroles", role)
    plane.request("POST", f"{rbac}/clusterrolebindings", binding)
    return str(plane.kubeconfig_for("operator"))


@pytest.fixture
async def store(plane: ControlPlane) -> AsyncIterator[MemoryStore]:
    yield MemoryStore()
    for item in plane.request("GET", API)["items"]:
        plane.request("DELETE", f"{API}/{item['metadata']['name']}")
    await asyncio.sleep(0.5)  # a TLS connection closed amid an answer outlives its session a little


def spec_reader(store: MemoryStore, name: str) -> Callable[[], Awaitable[ModelSpec | None]]:
    key = key_of(ModelKey(ModelRef("default", name)))

    async def read() -> ModelSpec | None:
        entry = await store.get(key)
        return loads(entry.value, ModelSpec, where=key) if entry else None

    return read


def accepted_of(plane: ControlPlane, name: str) -> Callable[[], Awaitable[Any]]:
    async def read() -> Any:
        body = await asyncio.to_thread(plane.request, "GET", f"{API}/{name}")
        return next(iter(body.get("status", {}).get("conditions", [])), None)

    return read


async def test_from_apply_to_delete(
    plane: ControlPlane, kubeconfig: str, store: MemoryStore
) -> None:
    before = resource("before", scaling={"maxReplicas": 3})
    await asyncio.to_thread(plane.request, "POST", API, before)
    async with running(OperatorSettings(kubeconfig=kubeconfig), store):
        read = spec_reader(store, "before")
        spec: ModelSpec = await eventually(read)
        assert spec.source.uri == "hf://owner/tiny"
        assert (spec.scaling.min_replicas, spec.scaling.max_replicas) == (0, 3)
        assert spec.backend == "native", "the schema's default reaches the store"

        condition = await eventually(accepted_of(plane, "before"))
        assert (condition["type"], condition["status"]) == ("Accepted", "True")
        assert condition["observedGeneration"] == 1

        change = {"spec": {"aliases": ["gpt-x"]}}
        await asyncio.to_thread(plane.request, "PATCH", f"{API}/before", change)

        async def changed() -> bool:
            seen, told = await read(), await accepted_of(plane, "before")()
            return seen is not None and seen.generation == told["observedGeneration"] == 2

        await eventually(changed)
        await asyncio.to_thread(plane.request, "DELETE", f"{API}/before")

        async def gone() -> bool:
            return await read() is None

        await eventually(gone)


async def test_what_was_deleted_while_the_operator_was_down(
    kubeconfig: str, store: MemoryStore
) -> None:
    orphan = key_of(ModelKey(ModelRef("default", "orphan")))
    theirs = key_of(ModelKey(ModelRef("default", "of-somebody-else")))
    await store.put(orphan, b"{}")
    async with store.lease(60) as lease:
        await store.put(theirs, b"{}", lease=lease)
        async with running(OperatorSettings(kubeconfig=kubeconfig), store):
            assert await store.get(orphan) is None
            assert await store.get(theirs) is not None


async def test_a_name_too_long_for_us_is_told_in_the_status(
    plane: ControlPlane, kubeconfig: str, store: MemoryStore
) -> None:
    name = "long." * 20 + "x"
    await asyncio.to_thread(plane.request, "POST", API, resource(name))
    async with running(OperatorSettings(kubeconfig=kubeconfig), store):
        condition = await eventually(accepted_of(plane, name))
        assert (condition["status"], condition["reason"]) == ("False", "InvalidName")
        assert "1 to 63" in condition["message"]


async def test_a_store_that_was_away_gets_it_later(
    plane: ControlPlane, kubeconfig: str, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, refusals = store.put, 0

    async def away_at_first(key: str, value: bytes, **more: Any) -> int:
        nonlocal refusals
        if refusals < 1:
            refusals += 1
            raise StoreUnavailable("no member of etcd can be reached")
        return await put(key, value, **more)

    monkeypatch.setattr(store, "put", away_at_first)
    async with running(OperatorSettings(kubeconfig=kubeconfig), store):
        await asyncio.to_thread(plane.request, "POST", API, resource("late"))
        assert await eventually(spec_reader(store, "late"))
    assert refusals == 1


async def test_started_before_its_crds_and_through_a_restart(control_plane: ControlPlane) -> None:
    """It waits, takes "not served" for no answer, and outlives its API server."""
    store = MemoryStore()
    key = key_of(ModelKey(ModelRef("default", "kept")))
    await store.put(key, b"{}")

    async def install_later() -> None:
        await asyncio.sleep(1)
        assert await store.get(key) is not None, "nothing is known, so nothing is an orphan"
        await asyncio.to_thread(install_crds, control_plane)

    installing = asyncio.create_task(install_later())
    async with running(OperatorSettings(kubeconfig=str(control_plane.kubeconfig)), store):
        await installing
        assert await store.get(key) is None
        await asyncio.to_thread(control_plane.stop_apiserver)
        await asyncio.to_thread(control_plane.start_apiserver)
        await asyncio.to_thread(await_served, control_plane)
        await asyncio.to_thread(control_plane.request, "POST", API, resource("after"))
        assert await eventually(spec_reader(store, "after"))


async def test_rights_that_are_missing_are_named(plane: ControlPlane) -> None:
    nobody = OperatorSettings(kubeconfig=str(plane.kubeconfig_for("nobody")))
    with pytest.raises(InvalidSettings, match="may not list"):
        async with running(nobody, MemoryStore()):
            raise AssertionError("it must not start")


def test_the_schema_refuses_what_can_not_be_meant(plane: ControlPlane) -> None:
    wrong: list[dict[str, Any]] = [
        {"source": {"uri": "ftp://x"}},
        {"backend": "abacus"},
        {"source": {}},
    ]
    for spec in wrong:
        with pytest.raises(ApiError) as refusal:
            plane.request("POST", API, resource("wrong", **spec))
        assert refusal.value.status == 422


async def test_no_way_into_the_cluster(tmp_path: Path) -> None:
    nowhere = OperatorSettings(kubeconfig=str(tmp_path / "absent"))
    with pytest.raises(InvalidSettings, match="kubeconfig"):
        async with running(nowhere, MemoryStore()):
            raise AssertionError("it must not start")
