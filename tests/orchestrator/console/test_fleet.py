"""The fleet as JSON and as events, as the page and scripts read it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import IngestionKey, ModelKey, ScalingKey, key_of
from lite_llm.metastore import Store
from lite_llm.orchestrator import Orchestrator, OrchestratorSettings, running
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.agent_pb2 import ExpertMap, ExpertMapLayer, ExpertMapTier
from lite_llm.proto.v1.model_pb2 import Ingestion, Medium
from lite_llm.proto.v1.orchestrator_pb2 import ScalingState
from lite_llm.testing.stub_agent import StubAgent
from lite_llm.wire import dumps, ref_to_proto


async def events_of(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    name = ""
    async for line in answer.content:
        text = line.decode().rstrip("\n")
        if text.startswith("event: "):
            name = text.removeprefix("event: ")
        if text.startswith("data: "):
            yield name, json.loads(text.removeprefix("data: "))


async def test_whole_fleet_at_once(
    http: aiohttp.ClientSession, store: Store, model: ModelRef, agent: StubAgent
) -> None:
    await agent.hold(ref_to_proto(model), reason="serves")
    scaling = ScalingState(model=ref_to_proto(model), desired=1, reason="2 requests wait")
    await store.put(key_of(ScalingKey(model)), dumps(scaling))
    ingestion = Ingestion(model=ref_to_proto(model), reason="fetching")
    await store.put(key_of(IngestionKey(model)), dumps(ingestion))
    async with asyncio.timeout(10):
        while True:
            fleet = await (await http.get("/lite-llm/v1/fleet")).json()
            (told,) = fleet["models"] if fleet.get("models") else ({},)
            if told.get("residencies") and "ingestion" in told and "scaling" in told:
                break
            await asyncio.sleep(0.01)
    assert [each["node"] for each in fleet["agents"]] == ["stub"]
    assert told["residencies"][0]["reason"] == "serves"
    assert told["scaling"]["reason"] == "2 requests wait"
    assert told["ingestion"]["reason"] == "fetching"
    assert fleet["held_requests"] == {}


async def test_changes_as_events(
    http: aiohttp.ClientSession, store: Store, model: ModelRef, agent: StubAgent
) -> None:
    async with asyncio.timeout(20), http.get("/lite-llm/v1/watch") as answer:
        assert answer.content_type == "text/event-stream"
        told = events_of(answer)
        first = [await anext(told), await anext(told)]
        assert {name for name, _ in first} == {"view", "held"}
        whole = dict(first)["view"]
        assert [each["spec"]["ref"]["name"] for each in whole["models"]] == ["tiny"]
        await agent.register(waiting_requests=7)
        name, event = await anext(told)
        assert name == "view"
        assert [each["waiting_requests"] for each in event["agents"]] == [7]
        assert "models" not in event
        await store.delete(key_of(ModelKey(model)))
        _, event = await anext(told)
        assert event["removed_models"] == [{"namespace": "default", "name": "tiny"}]


async def test_held_requests_are_told(
    http: aiohttp.ClientSession, model: ModelRef, agent: StubAgent
) -> None:
    agent.may_load.clear()
    async with asyncio.timeout(20), http.get("/lite-llm/v1/watch") as answer:
        waiting = asyncio.create_task(
            http.post("/v1/completions", json={"model": "tiny", "prompt": "x"})
        )
        held = [(name, event) async for name, event in _until_held(events_of(answer))]
        assert held[-1] == ("held", {"default/tiny": 1})
        agent.may_load.set()
        assert (await waiting).status == 200


async def _until_held(
    events: AsyncIterator[tuple[str, dict[str, Any]]],
) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    async for name, event in events:
        yield name, event
        if name == "held" and event:
            return


async def test_scores_with_every_term(
    http: aiohttp.ClientSession, model: ModelRef, agent: StubAgent
) -> None:
    await agent.hold(ref_to_proto(model))
    answer = await http.get("/lite-llm/v1/scores?model=tiny&token=1&token=2")
    (told,) = (await answer.json())["candidates"]
    assert told["node"] == "stub"
    assert set(told["weights"]) == {"alpha", "beta", "gamma", "delta"}


async def test_a_watch_uses_up_no_grace(settings: OrchestratorSettings, store: Store) -> None:
    async with asyncio.timeout(20), aiohttp.ClientSession() as http:
        async with running(replace(settings, grace_seconds=600.0), store) as orchestrator:
            answer = await http.get(f"http://{orchestrator.http_address}/lite-llm/v1/watch")
            await answer.content.readline()
        async with asyncio.timeout(10):
            assert (await answer.content.read()).endswith(b"\n\n")


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/lite-llm/v1/scores", 400, "model is missing"),
        ("/lite-llm/v1/scores?model=tiny&token=x", 400, "a token is no number"),
        ("/lite-llm/v1/scores?model=tiny&token=99999999999", 400, "a token is no number"),
        (f"/lite-llm/v1/scores?model=tiny&token={'9' * 5000}", 400, "a token is no number"),
        ("/lite-llm/v1/scores?model=none", 404, "none does not exist"),
        ("/lite-llm/v1/experts?model=none", 404, "does not exist"),
        ("/lite-llm/v1/experts?model=tiny&node=none", 404, "no agent 'none'"),
        ("/console/../pyproject.toml", 404, "there is no GET"),
        ("/console/none.js", 404, "there is no GET"),
    ],
)
async def test_bad_questions(
    http: aiohttp.ClientSession,
    model: ModelRef,
    agent: StubAgent,
    path: str,
    status: int,
    words: str,
) -> None:
    answer = await http.get(path)
    assert answer.status == status
    assert words in (await answer.json())["error"]["message"]


async def test_where_experts_lie(
    http: aiohttp.ClientSession, model: ModelRef, agent: StubAgent
) -> None:
    async with asyncio.timeout(10):
        assert "layers" not in await (await http.get("/lite-llm/v1/experts?model=tiny")).json()
        media = bytes([Medium.MEDIUM_GPU, Medium.MEDIUM_NVME])
        layer = ExpertMapLayer(layer=3, tiers=[ExpertMapTier(tier="core", media=media)])
        agent.experts = ExpertMap(node="stub", layers=[layer])
        await agent.hold(ref_to_proto(model), model_pb2.MODEL_STATE_ACTIVE)
        while True:
            told = await (await http.get("/lite-llm/v1/experts?model=tiny")).json()
            if told.get("layers"):
                break
            await asyncio.sleep(0.01)
    (tier,) = told["layers"][0]["tiers"]
    assert base64.b64decode(tier["media"]) == media


async def test_files_of_the_page(http: aiohttp.ClientSession) -> None:
    page = await http.get("/console")
    assert page.content_type == "text/html"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    again = await http.get("/console", headers={"If-None-Match": page.headers["ETag"]})
    assert again.status == 304
    assert (await http.get("/console/main.js")).content_type == "text/javascript"


@pytest.fixture
def keyed(settings: OrchestratorSettings, tmp_path: Path) -> OrchestratorSettings:
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("acme", "boss")}
    tenants = [
        {"name": "acme", "keys": [f"sha256:{digests['acme']}"], "models": ["team/*"]},
        {"name": "boss", "keys": [f"sha256:{digests['boss']}"], "is_admin": True},
    ]
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"tenants": tenants}))
    return replace(settings, keys=path)


class TestWithKeys:
    @pytest.fixture
    def settings(self, keyed: OrchestratorSettings) -> OrchestratorSettings:
        return keyed

    async def test_only_administrators_see_the_fleet(
        self, orchestrator: Orchestrator, store: Store, model: ModelRef, agent: StubAgent
    ) -> None:
        url = f"http://{orchestrator.http_address}"
        async with aiohttp.ClientSession(url) as http:

            async def status(path: str, key: str = "") -> int:
                headers = {"Authorization": f"Bearer {key}"} if key else {}
                async with http.get(path, headers=headers) as answer:
                    return answer.status

            for path in ("fleet", "watch", "experts?model=tiny"):
                assert await status(f"/lite-llm/v1/{path}") == 401
                assert await status(f"/lite-llm/v1/{path}", "acme") == 403
                assert await status(f"/lite-llm/v1/{path}", "boss") == 200
            assert await status("/lite-llm/v1/scores?model=tiny", "acme") == 404
            assert await status("/lite-llm/v1/scores?model=tiny", "boss") == 200
            for name, tenants in (("own", ["acme"]), ("others", ["umbra"])):
                ref = ModelRef("team", name)
                source = model_pb2.ModelSource(uri="file:///x")
                spec = model_pb2.ModelSpec(ref=ref_to_proto(ref), source=source, tenants=tenants)
                spec.aliases.append(f"{name}-alias")
                await store.put(key_of(ModelKey(ref)), dumps(spec))
            await agent.hold(model_pb2.ModelRef(namespace="team", name="own"))
            async with asyncio.timeout(10):
                while await status("/lite-llm/v1/scores?model=team/own-alias", "acme") != 200:  # noqa: ASYNC110  # of a server
                    await asyncio.sleep(0.01)
            for name in ("others", "others-alias"):
                assert await status(f"/lite-llm/v1/scores?model=team/{name}", "acme") == 404
            assert await status("/console") == 200
