"""What the operator outlives: restarts of its API server, loss of its store, rivals, absence."""

from __future__ import annotations

import asyncio

from tests.operator.conftest import Api, define, resource, served, stored, wait_until

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import MODELS, ModelKey, key_of
from lite_llm.controllers import OperatorSettings, release_all, running
from lite_llm.metastore import MemoryStore, open_store
from lite_llm.testing.control_plane import ApiError, ControlPlane
from lite_llm.testing.etcd import etcd_server


def settings(kubeconfig: str) -> OperatorSettings:
    return OperatorSettings(kubeconfig=kubeconfig, pace_seconds=0.05)


async def is_stored(store: MemoryStore, name: str) -> bool:
    return await store.get(key_of(ModelKey(ModelRef("default", name)))) is not None


async def test_started_before_its_definitions_and_through_a_restart(
    control_plane: ControlPlane, store: MemoryStore
) -> None:
    """It waits, takes "not served" for no answer, and outlives its API server."""
    api = Api(control_plane)
    orphan = key_of(ModelKey(ModelRef("default", "orphan")))
    await store.put(orphan, b"{}")
    await release_all(settings(str(control_plane.kubeconfig)))  # nothing is defined: nothing to do

    async def define_later() -> None:
        await asyncio.sleep(1)
        assert await store.get(orphan) is not None, "nothing is known, so nothing is an orphan"
        await asyncio.to_thread(define, control_plane)

    defining = asyncio.create_task(define_later())
    async with running(settings(str(control_plane.kubeconfig)), store):
        await defining

        async def collected() -> bool:
            return await store.get(orphan) is None

        await wait_until(collected)
        await api.make(resource("before"))
        await wait_until(lambda: is_stored(store, "before"))
        await asyncio.to_thread(control_plane.stop_apiserver)
        await asyncio.to_thread(control_plane.start_apiserver)

        async def is_back() -> bool:
            return await asyncio.to_thread(served, control_plane, "LiteLLMModel")

        await wait_until(is_back)
        await api.make(resource("after"))
        await wait_until(lambda: is_stored(store, "after"), seconds=60)
        assert await is_stored(store, "before")
        await api.delete("before")

        async def withdrawn() -> bool:
            return not await is_stored(store, "before")

        await wait_until(withdrawn)


async def test_an_etcd_that_lost_everything_is_filled_again(api: Api, kubeconfig: str) -> None:
    with etcd_server() as etcd:
        async with open_store(etcd.settings()) as store, running(settings(kubeconfig), store):
            for number in range(5):
                await api.make(resource(f"m{number}"))

            async def all_stored() -> bool:
                return len((await store.list_prefix(MODELS)).entries) == 5

            await wait_until(all_stored)
            await asyncio.to_thread(etcd.stop)
            await asyncio.to_thread(etcd.wipe)
            await wait_until(all_stored, seconds=60)


async def test_intent_that_somebody_deletes_or_changes_is_put_right(
    api: Api, kubeconfig: str, store: MemoryStore
) -> None:
    key = key_of(ModelKey(ModelRef("default", "m")))
    async with running(settings(kubeconfig), store):
        await api.make(resource("m"))
        await wait_until(lambda: is_stored(store, "m"))
        good = await store.get(key)
        assert good is not None
        await store.delete(key)
        await wait_until(lambda: is_stored(store, "m"))
        await store.put(key, b"{}")

        async def right_again() -> bool:
            entry = await store.get(key)
            return entry is not None and entry.value == good.value

        await wait_until(right_again)
        stray = key_of(ModelKey(ModelRef("default", "stray")))
        await store.put(stray, b"{}")

        async def collected() -> bool:
            return await store.get(stray) is None

        await wait_until(collected)


async def test_what_lies_under_a_lease_is_somebody_elses(
    api: Api, kubeconfig: str, store: MemoryStore
) -> None:
    theirs = key_of(ModelKey(ModelRef("default", "of-somebody-else")))
    orphan = key_of(ModelKey(ModelRef("default", "orphan")))
    await store.put(orphan, b"{}")
    async with store.lease(60) as lease:
        await store.put(theirs, b"{}", lease=lease)
        async with running(settings(kubeconfig), store):

            async def collected() -> bool:
                return await store.get(orphan) is None

            await wait_until(collected)
            assert await store.get(theirs) is not None


async def test_a_storm_of_rivals(api: Api, kubeconfig: str, store: MemoryStore) -> None:
    """Others write the same objects, their metadata and their conditions, as fast as they can."""
    path = "/apis/lite-llm.dev/v1alpha1/namespaces/default/litellmmodels"
    stop = asyncio.Event()

    async def annotate(rival: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await api.change("contested", {"metadata": {"annotations": {f"r{rival}": str(number)}}})

    async def judge_once() -> None:
        theirs = {
            "type": "Audited", "status": "True", "reason": "Done", "message": "by a rival",
            "lastTransitionTime": "2026-11-21T00:00:00Z",
        }  # fmt: skip
        body = await api.get("contested")
        known = body.get("status", {}).get("conditions", [])
        others = [each for each in known if each["type"] != "Audited"]
        patch = {
            "metadata": {"resourceVersion": body["metadata"]["resourceVersion"]},
            "status": {"conditions": [*others, theirs]},
        }
        try:
            await api.request("PATCH", f"{path}/contested/status", patch)
        except ApiError as error:
            assert error.status == 409  # noqa: PT017 - any other fault must fail the test

    async def judge() -> None:
        while not stop.is_set():
            await judge_once()

    await api.make(resource("contested"))
    await judge_once()
    async with running(settings(kubeconfig), store):
        rivals = [asyncio.create_task(annotate(rival)) for rival in range(3)]
        rivals.append(asyncio.create_task(judge()))
        try:
            for least in (1, 0, 1):
                scaling = {"minReplicas": least, "maxReplicas": 2}
                await api.change("contested", {"spec": {"scaling": scaling}})

            async def told() -> bool:
                body = await api.get("contested")
                return bool(
                    body.get("status", {}).get("observedGeneration")
                    == body["metadata"]["generation"]
                )

            await wait_until(told)
        finally:
            stop.set()
            await asyncio.gather(*rivals)
        kinds = [each["type"] for each in (await api.get("contested"))["status"]["conditions"]]
        assert {"Audited", "Accepted", "Ready", "Degraded"} <= set(kinds), "nobody lost anything"
        assert len(kinds) == len(set(kinds))


async def test_deleted_while_it_was_down(api: Api, kubeconfig: str, store: MemoryStore) -> None:
    async with running(settings(kubeconfig), store):
        await api.make(resource("gone"))
        await wait_until(lambda: is_stored(store, "gone"))
    await api.delete("gone")
    assert await api.exists("gone"), "its finalizer keeps it until intent is withdrawn"
    async with running(settings(kubeconfig), store):

        async def withdrawn() -> bool:
            return not await api.exists("gone") and await stored(store) == set()

        await wait_until(withdrawn)


async def test_the_way_out_without_an_operator(
    api: Api, kubeconfig: str, store: MemoryStore
) -> None:
    """Finalizers can be taken off, by hand or all at once; intent is collected later."""
    async with running(settings(kubeconfig), store):
        for name in ("one", "two"):
            await api.make(resource(name))
            await wait_until(lambda name=name: is_stored(store, name))  # type: ignore[misc] # bound at once
    await release_all(settings(kubeconfig))
    for name in ("one", "two"):
        assert (await api.get(name))["metadata"].get("finalizers", []) == []
        await api.delete(name)
        assert not await api.exists(name)
    async with running(settings(kubeconfig), store):

        async def collected() -> bool:
            return await stored(store) == set()

        await wait_until(collected)
