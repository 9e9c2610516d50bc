"""Many models at a time, looks at all of them, and what the operator's port tells meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from tests.operator.conftest import Api, resource, wait_until

from lite_llm.contracts.keyspace import AgentKey, key_of
from lite_llm.controllers import OperatorSettings, running
from lite_llm.controllers.probes import Health, http_serving, make_app
from lite_llm.metastore import MemoryStore
from lite_llm.proto.v1 import agent_pb2
from lite_llm.testing.guard import free_ports
from lite_llm.wire import dumps

COUNT = 40
ALL = "/apis/lite-llm.dev/v1alpha1/namespaces/default/litellmmodels"


async def versions(api: Api) -> dict[str, str]:
    listed = await api.request("GET", ALL)
    return {
        each["metadata"]["name"]: each["metadata"]["resourceVersion"] for each in listed["items"]
    }


async def reasons(api: Api) -> set[Any]:
    listed = await api.request("GET", ALL)
    return {
        next((c["reason"] for c in known if c["type"] == "Ready"), None)
        for known in (each.get("status", {}).get("conditions", []) for each in listed["items"])
    }


async def test_all_follow_a_change_and_a_resync_without_one_writes_nothing(
    api: Api, kubeconfig: str, store: MemoryStore
) -> None:
    for number in range(COUNT):
        await api.make(resource(f"m{number}"))
    (port,) = free_ports(1)
    settings = OperatorSettings(
        kubeconfig=kubeconfig,
        pace_seconds=0.02,
        resync_seconds=0.3,
        listen_http=f"127.0.0.1:{port}",
    )
    async with running(settings, store), aiohttp.ClientSession() as session:

        async def without_agents() -> bool:
            return await reasons(api) == {"NoAgents"}

        await wait_until(without_agents, seconds=90)
        agent = agent_pb2.AgentStatus(node="n1", health=agent_pb2.Health(healthy=True))
        await store.put(key_of(AgentKey("n1")), dumps(agent))

        async def with_one() -> bool:
            return await reasons(api) == {"ScaledToZero"}

        await wait_until(with_one, seconds=90)
        before = await versions(api)
        await asyncio.sleep(1.0)
        assert await versions(api) == before

        async def page(path: str) -> tuple[int, str]:
            async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                return answer.status, await answer.text()

        assert await page("/healthz") == (200, "ok\n")
        assert await page("/readyz") == (200, "leading\n")
        _, metrics = await page("/metrics")
        assert 'lite_llm_lease_held{role="operator"} 1.0' in metrics
        assert 'lite_llm_watch_last_event_age_seconds{watch="litellmmodels"}' in metrics
        looked = 'lite_llm_reconcile_duration_seconds_count{controller="litellmmodels"} '
        assert float(metrics.split(looked)[1].split()[0]) > 2 * COUNT
        await session.close()
        await asyncio.sleep(0.1)


async def test_probes_tell_what_is_wrong() -> None:
    health = Health()
    async with (
        http_serving("127.0.0.1:0", make_app(health)) as port,
        aiohttp.ClientSession() as session,
    ):

        async def status(path: str) -> int:
            async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                return answer.status

        assert (await status("/healthz"), await status("/readyz")) == (200, 503)
        health.is_started = True
        assert await status("/readyz") == 200, "a standby is ready"
        health.stuck_seconds = lambda: 1000.0
        assert await status("/healthz") == 503
