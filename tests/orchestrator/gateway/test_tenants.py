"""With a file of keys: who gets in, sees what, and in whose name."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import openai
import pytest

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import ModelKey, key_of
from lite_llm.metastore import Store
from lite_llm.orchestrator import Orchestrator, OrchestratorSettings
from lite_llm.proto.v1.generate_pb2 import GenerateRequest, GenerateStart
from lite_llm.proto.v1.model_pb2 import ModelSource, ModelSpec
from lite_llm.proto.v1.orchestrator_pb2 import DrainAgentRequest, ListModelsRequest
from lite_llm.proto.v1.orchestrator_pb2_grpc import OrchestratorStub
from lite_llm.testing.stub_agent import StubAgent
from lite_llm.wire import dumps, open_channel, ref_to_proto

pytestmark = pytest.mark.usefixtures("model")


@pytest.fixture
def settings(settings: OrchestratorSettings, tmp_path: Path) -> OrchestratorSettings:
    def tenant(name: str, **fields: object) -> dict[str, object]:
        digest = hashlib.sha256(f"sk-{name}".encode()).hexdigest()
        return {"name": name, "keys": [f"sha256:{digest}"], **fields}

    tenants = [
        tenant("acme", requests_per_minute=3, tier_sets=["fast"]),
        tenant("blind", models=["team/*"]),
        tenant("boss", is_admin=True),
    ]
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"tenants": tenants}))
    return replace(settings, keys=path)


@pytest.fixture
async def acme(orchestrator: Orchestrator) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(orchestrator, "sk-acme") as opened:
        yield opened


def client_of(orchestrator: Orchestrator, key: str) -> openai.AsyncOpenAI:
    url = f"http://{orchestrator.http_address}/v1"
    return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0)


async def test_a_request_is_its_tenants(acme: openai.AsyncOpenAI, agent: StubAgent) -> None:
    await acme.completions.create(
        model="tiny", prompt="x", extra_body={"lite_llm": {"priority": 99, "tier_set": "fast"}}
    )
    assert (agent.generations[0].tenant, agent.generations[0].priority) == ("acme", 0)
    with pytest.raises(openai.PermissionDeniedError) as caught:
        await acme.completions.create(
            model="tiny", prompt="x", extra_body={"lite_llm": {"tier_set": "max"}}
        )
    assert caught.value.code == "forbidden"


async def test_without_a_key_nothing_is_told(
    http: aiohttp.ClientSession, orchestrator: Orchestrator, agent: StubAgent
) -> None:
    for path in ("/v1/models", "/v1/models/tiny", "/v1/nothing"):
        async with http.get(path) as response:
            assert response.status == 401
            assert (await response.json())["error"]["code"] == "invalid_api_key"
    async with client_of(orchestrator, "sk-wrong") as wrong:
        with pytest.raises(openai.AuthenticationError):
            await wrong.completions.create(model="tiny", prompt="x")
    for path in ("/healthz", "/metrics", "/openapi.json"):
        async with http.get(path) as response:
            assert response.status == 200
    assert agent.generations == []


async def test_what_a_tenant_may_not_use_does_not_exist_for_it(
    orchestrator: Orchestrator, agent: StubAgent
) -> None:
    async with client_of(orchestrator, "sk-blind") as blind:
        assert (await blind.models.list()).data == []
        errors = []
        for name in ("tiny", "no-such-model"):
            for asking in (
                blind.models.retrieve(name),
                blind.completions.create(model=name, prompt="x"),
                blind.embeddings.create(model=name, input="x"),
            ):
                with pytest.raises(openai.NotFoundError) as caught:
                    await asking
                errors.append(str(caught.value).replace(name, "NAME").replace("default/", ""))
    assert len(set(errors)) <= 2, "nothing tells the one from the other"
    assert set(errors[:3]) == set(errors[3:])


async def test_a_model_may_be_for_some_tenants_only(
    orchestrator: Orchestrator, agent: StubAgent, store: Store
) -> None:
    private = ModelRef("default", "private")
    spec = ModelSpec(
        ref=ref_to_proto(private), source=ModelSource(uri="file:///m"), tenants=["boss"],
        aliases=["secret"],
    )  # fmt: skip
    await store.put(key_of(ModelKey(private)), dumps(spec))
    async with client_of(orchestrator, "sk-boss") as boss, asyncio.timeout(20):
        while len((await boss.models.list()).data) < 3:  # noqa: ASYNC110 - the view follows
            await asyncio.sleep(0.02)
        await boss.completions.create(model="secret", prompt="x")
    async with client_of(orchestrator, "sk-acme") as acme:
        assert [model.id for model in (await acme.models.list()).data] == ["tiny"]
        for name in ("private", "secret"):
            with pytest.raises(openai.NotFoundError):
                await acme.completions.create(model=name, prompt="x")
            with pytest.raises(openai.NotFoundError):
                await acme.models.retrieve(name)
    async with open_channel(orchestrator.grpc_address) as channel:
        door, known = OrchestratorStub(channel), (("authorization", "Bearer sk-acme"),)
        listed = await door.ListModels(ListModelsRequest(), metadata=known)
        assert [view.spec.ref.name for view in listed.models] == ["tiny"]
        call = door.Generate(metadata=known)
        start = GenerateStart(request_id="r", model=ref_to_proto(private), text="x")
        await call.write(GenerateRequest(start=start))
        with pytest.raises(grpc.aio.AioRpcError, match="does not exist"):
            await call.read()
    assert len(agent.generations) == 1


async def test_limits_are_told_with_a_time_to_come_back(
    acme: openai.AsyncOpenAI, http: aiohttp.ClientSession, agent: StubAgent
) -> None:
    for _ in range(3):
        await acme.completions.create(model="tiny", prompt="x")
    with pytest.raises(openai.RateLimitError) as caught:
        await acme.completions.create(model="tiny", prompt="x")
    assert caught.value.code == "quota_exceeded"
    assert 0 < int(caught.value.response.headers["Retry-After"]) <= 20
    with pytest.raises(openai.RateLimitError):
        await acme.completions.create(model="absent", prompt="x")
    exposition = await (await http.get("/metrics")).text()
    assert 'code="429",model="default/tiny"' in exposition
    assert "absent" not in exposition, "a name that no model has must not become a label"


async def test_grpc_knows_the_same_tenants(
    orchestrator: Orchestrator, agent: StubAgent, model: ModelRef
) -> None:
    def key(name: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer sk-{name}"),)

    async with open_channel(orchestrator.grpc_address) as channel:
        door = OrchestratorStub(channel)
        start = GenerateStart(
            request_id="r", model=ref_to_proto(model), text="x", tenant="boss", priority=100
        )
        call = door.Generate(metadata=key("acme"))
        await call.write(GenerateRequest(start=start))
        assert [event async for event in call]
        assert (agent.generations[0].tenant, agent.generations[0].priority) == ("acme", 0)
        assert not (await door.ListModels(ListModelsRequest(), metadata=key("blind"))).models
        assert (await door.ListModels(ListModelsRequest(), metadata=key("acme"))).models
        for metadata, code in (
            ((), grpc.StatusCode.UNAUTHENTICATED),
            (key("acme"), grpc.StatusCode.PERMISSION_DENIED),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await door.Drain(DrainAgentRequest(node="stub"), metadata=metadata)
            assert caught.value.code() is code
        await door.Drain(DrainAgentRequest(node="stub"), metadata=key("boss"))
