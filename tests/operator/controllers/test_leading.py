"""One operator works at a time, and the next takes over: a real Lease on a real API server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.operator.conftest import Api, resource, wait_until

from lite_llm.contracts.errors import Conflict, InvalidSettings, LeaseLost
from lite_llm.contracts.keyspace import MODELS
from lite_llm.controllers import LeaseSettings, OperatorSettings, running
from lite_llm.controllers.cluster import Cluster, open_cluster
from lite_llm.controllers.leading import leading
from lite_llm.metastore import MemoryStore, Store, open_store
from lite_llm.testing.command import Command
from lite_llm.testing.control_plane import ControlPlane
from lite_llm.testing.etcd import etcd_server
from lite_llm.testing.guard import Guard

LEASE = "/apis/coordination.k8s.io/v1/namespaces/default/leases/lite-llm-operator"


def lease(identity: str, seconds: float = 3.0) -> LeaseSettings:
    return LeaseSettings(namespace="default", identity=identity, duration_seconds=seconds)


def settings(kubeconfig: str, identity: str) -> OperatorSettings:
    return OperatorSettings(kubeconfig=kubeconfig, lease=lease(identity), pace_seconds=0.05)


async def holder(api: Api) -> Any:
    return (await api.request("GET", LEASE))["spec"]["holderIdentity"]


async def num_stored(store: Store) -> int:
    return len((await store.list_prefix(MODELS)).entries)


async def test_hand_over_under_load(api: Api, kubeconfig: str) -> None:
    """Objects come all the time; the leader is killed in the middle, and not one is missed."""
    with etcd_server() as etcd, Guard("lite-llm-operators") as guard:

        def operator(name: str) -> Command:
            arguments = (
                f"--etcd=http://{etcd.endpoint}", f"--kubeconfig={kubeconfig}",
                "--lease-namespace=default", "--lease-seconds=3", f"--identity={name}",
            )  # fmt: skip
            return Command(guard, "operator", *arguments, name=name)

        async def load() -> None:
            for number in range(30):
                await api.make(resource(f"m{number}"))
                await asyncio.sleep(0.1)

        async with open_store(etcd.settings()) as store:
            first = operator("first")
            await asyncio.to_thread(first.wait_said, "elected")
            second = operator("second")
            loading = asyncio.create_task(load())

            async def some() -> bool:
                return await num_stored(store) >= 5

            await wait_until(some)
            first.process.kill()
            await asyncio.to_thread(second.wait_said, "elected")
            assert (await holder(api)).startswith("second_")
            await loading

            async def all_told() -> bool:
                listed = await api.request("GET", "/apis/lite-llm.dev/v1alpha1/litellmmodels")
                return all("status" in each for each in listed["items"])

            await wait_until(all_told, seconds=60)
            assert await num_stored(store) == 30
            assert await asyncio.to_thread(second.terminated) == 0
            assert await holder(api) == "", "who ends in peace lets the next begin at once"


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


async def test_who_is_deposed_ends(api: Api, kubeconfig: str, store: MemoryStore) -> None:
    async def work() -> None:
        async with running(settings(kubeconfig, "only"), store) as health:
            assert health.is_leading
            spec = {"holderIdentity": "somebody else"}
            await api.request("PATCH", LEASE, {"spec": spec})
            await asyncio.sleep(60)

    with pytest.raises(ExceptionGroup) as ended:
        await work()
    assert ended.group_contains(LeaseLost)
    assert await holder(api) == "somebody else"


async def test_without_its_lease_nobody_leads_on(api: Api, kubeconfig: str) -> None:
    """Whoever finds none may make one at once: its holder's next renewal is a conflict."""
    async with (
        open_cluster(kubeconfig) as cluster,
        leading(cluster, lease("a", 60.0), on_standby=lambda: None),
    ):
        held = await cluster.lease("default", "lite-llm-operator")
        assert held is not None
        await api.request("DELETE", LEASE)
        with pytest.raises(Conflict):
            await cluster.write_lease(held)


async def test_a_standby_is_ready_and_does_nothing(
    api: Api, kubeconfig: str, store: MemoryStore
) -> None:
    async with (
        open_cluster(kubeconfig) as cluster,
        leading(cluster, lease("leader", 600.0), on_standby=lambda: None),
        running(settings(kubeconfig, "standby"), store) as health,
    ):
        assert (health.is_started, health.is_leading) == (True, False)
        await api.make(resource("m"))
        await asyncio.sleep(0.5)
        assert await num_stored(store) == 0


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
