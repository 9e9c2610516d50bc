"""Custom resources on a real API server, mirrored into a store by the real operator, and back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.operator.conftest import Api, bind, resource, stored, wait_until

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import InvalidSettings, StoreUnavailable
from lite_llm.contracts.keyspace import (
    AgentKey,
    IngestionKey,
    ModelKey,
    ResidencyKey,
    TierSetKey,
    key_of,
)
from lite_llm.controllers import OperatorSettings, running
from lite_llm.metastore import MemoryStore
from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2
from lite_llm.proto.v1.model_pb2 import ModelSpec, TierSetSpec
from lite_llm.testing.control_plane import ControlPlane
from lite_llm.wire import dumps, loads

TIERS: list[dict[str, Any]] = [
    {"name": "near", "id": 0, "groups": 1, "expertsPerGroup": 4, "placement": "Hot"},
    {"name": "far", "id": 1, "groups": 2, "expertsPerGroup": 4, "placement": "Cold"},
]


def settings(kubeconfig: str, **changes: Any) -> OperatorSettings:
    return OperatorSettings(kubeconfig=kubeconfig, pace_seconds=0.05, **changes)


async def spec_of(store: MemoryStore, name: str) -> ModelSpec | None:
    key = key_of(ModelKey(ModelRef("default", name)))
    entry = await store.get(key)
    return loads(entry.value, ModelSpec, where=key) if entry else None


async def test_from_apply_to_delete(api: Api, kubeconfig: str, store: MemoryStore) -> None:
    await api.make(resource("before", scaling={"maxReplicas": 3}))
    async with running(settings(kubeconfig), store):
        spec: ModelSpec = await wait_until(lambda: spec_of(store, "before"))
        assert (spec.scaling.min_replicas, spec.scaling.max_replicas) == (0, 3)
        assert spec.backend == "native", "the schema's default reaches the store"

        accepted = await wait_until(lambda: api.condition("before", "Accepted"))
        assert (accepted["status"], accepted["reason"]) == ("True", "Stored")
        assert (await api.condition("before", "Ready"))["reason"] == "NoAgents"

        await api.change("before", {"spec": {"aliases": ["gpt-x"]}})

        async def changed() -> bool:
            body, seen = await api.get("before"), await spec_of(store, "before")
            return seen is not None and seen.generation == body["status"]["observedGeneration"] == 2

        await wait_until(changed)
        await api.delete("before")
        await wait_until(lambda: gone(api, "before"))
        assert await stored(store) == set()


async def gone(api: Api, name: str, kind: str = "LiteLLMModel") -> bool:
    return not await api.exists(name, kind)


async def test_what_agents_tell_is_in_the_status(
    api: Api, kubeconfig: str, store: MemoryStore
) -> None:
    ref = model_pb2.ModelRef(namespace="default", name="told")
    agent = agent_pb2.AgentStatus(node="n1", health=agent_pb2.Health(healthy=True))
    held = agent_pb2.Residency(
        model=ref,
        node="n1",
        state=model_pb2.MODEL_STATE_INIT,
        nearest=model_pb2.MEDIUM_NVME,
        reason="fetching 3.1 of 4.0 GB",
    )
    residency = key_of(ResidencyKey(ModelRef("default", "told"), "n1"))
    ingestion = model_pb2.Ingestion(
        model=ref, state=model_pb2.INGESTION_STATE_DONE, locations=["s3://m/told"]
    )
    await store.put(key_of(AgentKey("n1")), dumps(agent))
    await store.put(key_of(IngestionKey(ModelRef("default", "told"))), dumps(ingestion))
    await api.make(resource("told"))
    async with running(settings(kubeconfig, door_url="https://door/v1"), store):

        async def ready(reason: str) -> bool:
            return (await api.condition("told", "Ready")).get("reason") == reason

        await wait_until(lambda: ready("ScaledToZero"))
        assert (await api.condition("told", "Ingested"))["message"] == "it lies in s3://m/told"

        held.state, held.nearest = model_pb2.MODEL_STATE_ACTIVE, model_pb2.MEDIUM_GPU
        held.checkpoint_digest, held.started_at = "ab" * 32, 1_800_000_000.0
        held.tiers.add(tier="dense", medium=model_pb2.MEDIUM_GPU)
        held.last_cold_start.path = "warm"
        held.last_cold_start.phases.add(phase=generate_pb2.LOAD_PHASE_READ, seconds=1.25)
        held.last_cold_start.phases.add(phase=generate_pb2.LOAD_PHASE_INIT, seconds=0.5)
        await store.put(residency, dumps(held))
        await wait_until(lambda: ready("Serving"))

        status = (await api.get("told"))["status"]
        assert (status["state"], status["tier"], status["replicas"]) == ("Active", "GPU", 1)
        assert status["tiers"] == [{"name": "dense", "medium": "GPU", "agents": 1}]
        assert status["checkpointDigest"] == "ab" * 32
        assert status["url"] == "https://door/v1"
        assert "whyCold" not in status
        assert status["lastColdStart"] == {
            "path": "warm",
            "agent": "n1",
            "at": "2027-01-15T08:00:00Z",
            "milliseconds": 1750,
            "phases": [
                {"name": "read", "milliseconds": 1250},
                {"name": "init", "milliseconds": 500},
            ],
        }
        await store.delete(residency)
        await wait_until(lambda: ready("ScaledToZero"))
        status = (await api.get("told"))["status"]
        assert status["lastColdStart"]["milliseconds"] == 1750, "what was measured stays"
        assert (await api.condition("told", "Verified"))["status"] == "True"

        async def announced() -> bool:
            return {"Accepted", "Ingested", "Started", "ScaledToZero"} <= set(
                await api.events("told")
            )

        await wait_until(announced)


async def test_a_tier_set_is_mirrored_and_outlives_its_users(
    api: Api, kubeconfig: str, store: MemoryStore
) -> None:
    async with running(settings(kubeconfig), store):
        await api.make(resource("user", tierSetRef={"name": "shared"}))

        async def degraded(status: str) -> bool:
            return (await api.condition("user", "Degraded")).get("status") == status

        await wait_until(lambda: degraded("True"))
        assert (await api.condition("user", "Ready"))["reason"] == "TierSetNotFound"
        await api.make(resource("shared", "TierSet", tiers=TIERS, routingSeed="0" * 30 + "ff"))
        await wait_until(lambda: degraded("False"))
        key = key_of(TierSetKey(ModelRef("default", "shared")))
        entry = await store.get(key)
        assert entry is not None
        spec = loads(entry.value, TierSetSpec, where=key)
        assert [tier.name for tier in spec.tiers] == ["near", "far"]
        assert int.from_bytes(spec.routing_seed, "little") == 255

        async def counted() -> bool:
            body = await api.get("shared", "TierSet")
            return bool(body.get("status", {}).get("models") == 1)

        await wait_until(counted)
        await api.delete("shared", "TierSet")

        async def refused() -> bool:
            return bool((await api.condition("shared", "Ready", "TierSet"))["status"] == "False")

        await wait_until(refused)
        assert await store.get(key) is not None, "a model still uses it"
        await api.delete("user")
        await wait_until(lambda: gone(api, "shared", "TierSet"))
        assert await stored(store) == set()


async def test_a_deleted_model_goes_when_agents_let_go_of_it(
    api: Api, kubeconfig: str, store: MemoryStore
) -> None:
    held = agent_pb2.Residency(node="n1", state=model_pb2.MODEL_STATE_ACTIVE)
    residency = key_of(ResidencyKey(ModelRef("default", "held"), "n1"))
    await store.put(residency, dumps(held))
    await api.make(resource("held"))
    async with running(settings(kubeconfig, release_seconds=60.0), store):
        await wait_until(lambda: spec_of(store, "held"))
        await api.delete("held")

        async def withdrawn() -> bool:
            return await spec_of(store, "held") is None

        await wait_until(withdrawn)
        await asyncio.sleep(0.3)
        assert await api.exists("held"), "an agent still serves it"
        await store.delete(residency)
        await wait_until(lambda: gone(api, "held"))


async def test_a_model_that_nobody_lets_go_of_goes_in_the_end(
    api: Api, kubeconfig: str, store: MemoryStore
) -> None:
    held = agent_pb2.Residency(node="n1", state=model_pb2.MODEL_STATE_ACTIVE)
    await store.put(key_of(ResidencyKey(ModelRef("default", "stuck"), "n1")), dumps(held))
    await api.make(resource("stuck"))
    async with running(settings(kubeconfig, release_seconds=0.5), store):
        await wait_until(lambda: spec_of(store, "stuck"))
        await api.delete("stuck")
        await wait_until(lambda: gone(api, "stuck"))


async def test_a_name_too_long_for_us_is_told_in_the_status(
    api: Api, kubeconfig: str, store: MemoryStore
) -> None:
    name = "long." * 20 + "x"
    await api.make(resource(name))
    async with running(settings(kubeconfig), store):
        accepted = await wait_until(lambda: api.condition(name, "Accepted"))
        assert (accepted["status"], accepted["reason"]) == ("False", "InvalidName")
        assert "1 to 63" in accepted["message"]
        await api.delete(name)
        await wait_until(lambda: gone(api, name))


async def test_an_older_spec_stays_in_force_while_a_newer_is_refused(
    api: Api, kubeconfig: str, store: MemoryStore
) -> None:
    await api.make(resource("safe"))
    async with running(settings(kubeconfig), store):
        await wait_until(lambda: spec_of(store, "safe"))
        await api.change("safe", {"spec": {"security": {"encryption": "Required"}}})

        async def refused() -> bool:
            return (await api.condition("safe", "Accepted")).get("reason") == "Unsupported"

        await wait_until(refused)
        assert (await api.condition("safe", "Degraded"))["reason"] == "SpecRefused"
        spec = await spec_of(store, "safe")
        assert spec is not None
        assert spec.generation == 1


async def test_a_store_that_was_away_gets_it_later(
    api: Api, kubeconfig: str, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, refusals = store.put, 0

    async def away_at_first(key: str, value: bytes, **more: Any) -> int:
        nonlocal refusals
        if refusals < 1:
            refusals += 1
            raise StoreUnavailable("no member of etcd can be reached")
        return await put(key, value, **more)

    monkeypatch.setattr(store, "put", away_at_first)
    async with running(settings(kubeconfig), store):
        await api.make(resource("late"))
        assert await wait_until(lambda: spec_of(store, "late"))
    assert refusals == 1


async def test_only_the_namespaces_that_it_was_given(
    api: Api, plane: ControlPlane, store: MemoryStore, rules: dict[str, list[dict[str, Any]]]
) -> None:
    """With rights in one namespace alone, and none to list namespaces or definitions."""
    await asyncio.to_thread(bind, plane, "tenant", rules["objects"], "default")
    there = settings(str(plane.kubeconfig_for("tenant")), namespaces=("default",))
    theirs = key_of(ModelKey(ModelRef("elsewhere", "kept")))
    await store.put(theirs, b"{}")
    async with running(there, store):
        await api.make(resource("mine"))
        assert await wait_until(lambda: spec_of(store, "mine"))
        assert await store.get(theirs) is not None
    with pytest.raises(InvalidSettings, match="may not list"):
        async with running(settings(str(plane.kubeconfig_for("tenant"))), store):
            raise AssertionError("it must not start")


async def test_no_way_into_the_cluster(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="kubeconfig"):
        async with running(settings(str(tmp_path / "absent")), MemoryStore()):
            raise AssertionError("it must not start")
