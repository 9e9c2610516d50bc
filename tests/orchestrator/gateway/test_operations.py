from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import StoreUnavailable
from lite_llm.metastore import Event, MemoryStore
from lite_llm.orchestrator import OrchestratorSettings, running
from lite_llm.placement import watcher
from lite_llm.proto.v1.model_pb2 import MODEL_STATE_ACTIVE, MODEL_STATE_WARM
from lite_llm.testing.stub_agent import StubAgent
from lite_llm.wire import ref_to_proto


class LateStore(MemoryStore):
    """Refuses watches until ``open`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()

    @asynccontextmanager
    async def watch(
        self, prefix: str, *, from_revision: int | None = None
    ) -> AsyncIterator[AsyncIterator[Event]]:
        if not self.open.is_set():
            raise StoreUnavailable("not yet")
        async with super().watch(prefix, from_revision=from_revision) as events:
            yield events


async def test_ready_once_the_view_shows_the_store(
    settings: OrchestratorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "RETRY_SECONDS", 0.01)
    store = LateStore()
    async with (
        running(settings, store) as orchestrator,
        aiohttp.ClientSession(f"http://{orchestrator.http_address}") as http,
    ):
        assert (await http.get("/healthz")).status == 200
        refused = await http.get("/readyz")
        assert refused.status == 503
        assert "has not answered" in await refused.text()
        body = {"model": "tiny", "prompt": "x"}
        answer = await http.post("/v1/completions", json=body)
        assert answer.status == 503
        assert "has not answered" in (await answer.json())["error"]["message"]
        store.open.set()
        for _ in range(1000):
            if (await http.get("/readyz")).status == 200:
                break
            await asyncio.sleep(0.01)
        assert (await http.post("/v1/completions", json=body)).status == 404
    store.close()


@pytest.mark.usefixtures("model")
async def test_metrics_tell_what_clients_saw(http: aiohttp.ClientSession, agent: StubAgent) -> None:
    for name in ("tiny", "absent-1", "absent-2"):
        await http.post("/v1/completions", json={"model": name, "prompt": "x"})
    exposition = await (await http.get("/metrics")).text()
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }
    model = ("model", "default/tiny")
    assert samples["lite_llm_request_duration_seconds_count", ("code", "200"), model] == 1
    assert samples["lite_llm_time_to_first_token_seconds_count", model] == 1
    assert samples["lite_llm_inter_token_latency_seconds_count", model] == 2
    assert samples["lite_llm_held_requests", model] == 0
    assert samples["lite_llm_held_wait_seconds_count", model] == 1
    tokens = {
        kind: samples["lite_llm_tokens_total", ("tenant", ""), ("type", kind)]
        for kind in ("prompt", "cached", "completion")
    }
    assert tokens == {"prompt": 2, "cached": 1, "completion": 3}
    assert "absent" not in exposition, "a name that no model has must not become a label"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
    ],
)
async def test_what_does_not_exist_is_refused_in_openai_s_shape(
    http: aiohttp.ClientSession, method: str, path: str, status: int, code: str
) -> None:
    async with http.request(method, path) as response:
        assert response.status == status
        error = (await response.json())["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert f"{method} {path}" in error["message"]
    assert (status == 405) == ("Allow" in response.headers)


async def test_replicas_by_state_follow_the_view(
    http: aiohttp.ClientSession, model: ModelRef, agent: StubAgent
) -> None:
    async def told() -> dict[str, float]:
        text = await (await http.get("/metrics")).text()
        return {
            sample.labels["state"]: sample.value
            for family in text_string_to_metric_families(text)
            if family.name == "lite_llm_replicas"
            for sample in family.samples
        }

    for state, word in ((MODEL_STATE_WARM, "warm"), (MODEL_STATE_ACTIVE, "active")):
        await agent.hold(ref_to_proto(model), state)
        for _ in range(1000):
            if await told() == {word: 1.0}:
                break
            await asyncio.sleep(0.01)
        assert await told() == {word: 1.0}
