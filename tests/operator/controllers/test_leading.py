"""One operator works at a time, and the next takes over: a real Lease on a real API server."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.operator.conftest import Api, resource, wait_until

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import InvalidSettings
from lite_llm.contracts.keyspace import ModelKey, key_of
from lite_llm.controllers import Health, LeaseSettings, OperatorSettings, running
from lite_llm.controllers.cluster import Cluster, open_cluster
from lite_llm.controllers.leading import leading
from lite_llm.metastore import MemoryStore
from lite_llm.testing.control_plane import ControlPlane

LEASE = "/apis/coordination.k8s.io/v1/namespaces/default/leases/lite-llm-operator"


def lease(identity: str, seconds: float = 3.0) -> LeaseSettings:
    return LeaseSettings(namespace="default", identity=identity, duration_seconds=seconds)


def settings(kubeconfig: str, identity: str) -> OperatorSettings:
    return OperatorSettings(kubeconfig=kubeconfig, lease=lease(identity), pace_seconds=0.05)


async def holder(api: Api) -> Any:
    return (await api.request("GET", LEASE))["spec"]["holderIdentity"]


async def is_leading(health: Health) -> bool:
    return health.is_leading


async def num_stored(store: MemoryStore) -> int:
    prefix = key_of(ModelKey(ModelRef("default", "m"))).removesuffix("m")
    return len((await store.list_prefix(prefix)).entries)


async def test_hand_over_under_load(api: Api, kubeconfig: str, store: MemoryStore) -> None:
    """Objects come all the time; the leader goes in the middle, and not one of them is missed."""
    async with AsyncExitStack() as second_house:
        async with running(settings(kubeconfig, "first"), store) as first:
            assert first.is_leading
            second = await second_house.enter_async_context(
                running(settings(kubeconfig, "second"), store)
            )
            assert second.is_started
            assert not second.is_leading

            async def load() -> None:
                for number in range(40):
                    await api.make(resource(f"m{number}"))

            loading = asyncio.create_task(load())

            async def some() -> bool:
                return await num_stored(store) >= 10

            await wait_until(some)
        assert not first.is_leading
        await wait_until(lambda: is_leading(second))
        assert await holder(api) == "second"
        await loading

        async def all_told() -> bool:
            listed = await api.request("GET", "/apis/lite-llm.dev/v1alpha1/litellmmodels")
            return all("status" in each for each in listed["items"])

        await wait_until(all_told)
        assert await num_stored(store) == 40


async def test_who_resigns_is_followed_at_once(api: Api, kubeconfig: str) -> None:
    async with open_cluster(kubeconfig) as cluster:
        async with leading(cluster, lease("a", 600.0), on_standby=lambda: None):
            assert await holder(api) == "a"
        assert await holder(api) == ""
        async with asyncio.timeout(30), leading(cluster, lease("b"), on_standby=lambda: None):
            spec = (await api.request("GET", LEASE))["spec"]
            assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("b", 1)


async def test_who_falls_silent_is_replaced(api: Api, kubeconfig: str) -> None:
    standing_by = asyncio.Event()
    async with open_cluster(kubeconfig) as cluster:
        silent = Silent(cluster)
        async with leading(silent, lease("silent"), on_standby=lambda: None) as lost:  # type: ignore[arg-type] # the same verbs
            silent.is_cut_off = True

            async def next_one() -> None:
                async with leading(cluster, lease("next"), on_standby=standing_by.set):
                    assert lost.is_set(), "the old one has stopped before"

            async with asyncio.timeout(30):
                await next_one()
            assert standing_by.is_set()


class Silent:
    """A cluster that can be cut off."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.is_cut_off = False

    async def lease(self, namespace: str, name: str) -> Any:
        self._check()
        return await self._cluster.lease(namespace, name)

    async def write_lease(self, told: Any) -> Any:
        self._check()
        return await self._cluster.write_lease(told)

    def _check(self) -> None:
        if self.is_cut_off:
            raise OSError("no route to host")


async def test_who_is_deposed_by_hand_begins_anew(
    api: Api, kubeconfig: str, store: MemoryStore
) -> None:
    async with running(settings(kubeconfig, "only"), store) as health:
        await api.make(resource("m"))
        spec = {"holderIdentity": "somebody else", "leaseDurationSeconds": 1}
        await api.request("PATCH", LEASE, {"spec": spec})

        async def deposed() -> bool:
            return not health.is_leading

        await wait_until(deposed)
        await wait_until(lambda: is_leading(health))
        await api.make(resource("m2"))

        async def both() -> bool:
            return await num_stored(store) == 2

        await wait_until(both)


async def test_a_lost_answer_does_not_depose(api: Api, kubeconfig: str) -> None:
    """A renewal that arrived though we never heard so leaves us another version than we know."""
    async with (
        open_cluster(kubeconfig) as cluster,
        leading(cluster, lease("a", 2.0), on_standby=lambda: None) as lost,
    ):
        await api.request("PATCH", LEASE, {"metadata": {"labels": {"touched": "yes"}}})
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(lost.wait(), 2.5)
        assert await holder(api) == "a"


async def test_the_right_to_the_lease_is_named(plane: ControlPlane) -> None:
    async with open_cluster(str(plane.kubeconfig_for("nobody-at-all"))) as cluster:
        with pytest.raises(InvalidSettings, match="leases in default"):
            async with leading(cluster, lease("a"), on_standby=lambda: None):
                raise AssertionError("it must not lead")
