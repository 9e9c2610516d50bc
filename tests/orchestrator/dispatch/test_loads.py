"""One load per model, whoever asks and however often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import openai
import pytest

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import Corrupt, NoAgent, OutOfMemory, StoreUnavailable, WorkerCrashed
from lite_llm.contracts.keyspace import AssignmentKey, IngestionKey, ModelKey, key_of
from lite_llm.dispatch import HoldLimits, generation, setbacks
from lite_llm.metastore import Store
from lite_llm.orchestrator import Orchestrator, OrchestratorSettings, running
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.agent_pb2 import Assignment
from lite_llm.proto.v1.generate_pb2 import GenerateEvent, GenerateStart
from lite_llm.proto.v1.model_pb2 import Ingestion, ModelSource, ModelSpec
from lite_llm.testing.stub_agent import StubAgent, saying, stub_agent
from lite_llm.wire import dumps, ref_to_proto

BODY = {"model": "tiny", "prompt": "Count:"}


async def ask(http: aiohttp.ClientSession, url: str = "/v1/completions") -> int:
    async with http.post(url, json=BODY) as response:
        await response.read()
        return response.status


@pytest.mark.usefixtures("model")
async def test_a_herd_of_first_requests_causes_one_load(
    http: aiohttp.ClientSession, agent: StubAgent
) -> None:
    agent.may_load.clear()
    herd = [asyncio.create_task(ask(http)) for _ in range(50)]
    await agent.loading.wait()
    herd += [asyncio.create_task(ask(http)) for _ in range(10)]
    await asyncio.sleep(0.1)
    agent.may_load.set()
    assert await asyncio.gather(*herd) == [200] * 60
    assert len(agent.loads) == 1
    assert len(agent.generations) == 60


@pytest.mark.usefixtures("model", "orchestrator")
async def test_two_orchestrators_cause_one_load(
    orchestrator: Orchestrator, settings: OrchestratorSettings, store: Store, agent: StubAgent
) -> None:
    agent.may_load.clear()
    async with running(settings, store) as second, aiohttp.ClientSession() as http:
        urls = [f"http://{door.http_address}/v1/completions" for door in (orchestrator, second)]
        asking = [asyncio.create_task(ask(http, url)) for url in urls * 5]
        await agent.loading.wait()
        await asyncio.sleep(0.1)
        agent.may_load.set()
        assert await asyncio.gather(*asking) == [200] * 10
        assert len(agent.loads) == 1


@pytest.mark.usefixtures("orchestrator")
async def test_a_claim_whose_claimant_is_gone_is_taken_over(
    http: aiohttp.ClientSession, store: Store, agent: StubAgent, model: ModelRef
) -> None:
    key = key_of(AssignmentKey(model, "elsewhere"))
    claim = Assignment(model=ref_to_proto(model), node="elsewhere", claimed_by="dead")
    async with store.lease(10) as lease:
        await store.put(key, dumps(claim), lease=lease)
        asking = asyncio.create_task(ask(http))
        await asyncio.sleep(0.2)
        assert agent.loads == []
    assert await asking == 200
    assert len(agent.loads) == 1


@pytest.mark.usefixtures("model")
async def test_all_who_wait_hear_why_a_load_failed_and_later_it_is_tried_again(
    http: aiohttp.ClientSession, agent: StubAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setbacks, "FIRST_SECONDS", 1.5)
    agent.may_load.clear()
    agent.load_error = WorkerCrashed("the worker crashed")
    herd = [asyncio.create_task(ask(http)) for _ in range(5)]
    await agent.loading.wait()
    agent.may_load.set()
    assert await asyncio.gather(*herd) == [503] * 5
    async with http.post("/v1/completions", json=BODY) as response:
        assert response.status == 503
        assert response.headers["Retry-After"] in ("1", "2")
        assert (await response.json())["error"]["code"] == "worker_crashed"
    assert len(agent.loads) == 1, "a broken model is not loaded again for each request"
    agent.load_error = None
    async with asyncio.timeout(20):
        while await ask(http) != 200:  # noqa: ASYNC110 - as a client does it
            await asyncio.sleep(0.1)
    assert len(agent.loads) == 2


async def test_another_spec_of_a_broken_model_is_tried_at_once(
    http: aiohttp.ClientSession, agent: StubAgent, store: Store, model: ModelRef
) -> None:
    agent.load_error = Corrupt("the checkpoint is broken")
    assert await ask(http) == 500
    assert await ask(http) == 500
    assert len(agent.loads) == 1
    agent.load_error = None
    spec = ModelSpec(ref=ref_to_proto(model), source=ModelSource(uri="file:///b"), generation=2)
    await store.put(key_of(ModelKey(model)), dumps(spec))
    assert await ask(http) == 200


@pytest.mark.usefixtures("model")
async def test_what_one_agent_can_not_load_another_does(
    http: aiohttp.ClientSession, agent: StubAgent, store: Store
) -> None:
    await agent.register(running_requests=1000)
    async with stub_agent(store, "a") as small:
        small.load_error = OutOfMemory("too little memory")
        assert await ask(http) == 200
        assert (len(small.loads), len(agent.loads)) == (1, 1)


@pytest.mark.usefixtures("model")
async def test_an_agent_that_dies_while_it_loads_is_replaced(
    http: aiohttp.ClientSession, agent: StubAgent, store: Store
) -> None:
    await agent.register(running_requests=1000)
    async with stub_agent(store, "a") as mortal:
        mortal.may_load.clear()
        asking = asyncio.create_task(ask(http))
        await mortal.loading.wait()
        await mortal.die()
        assert await asyncio.wait_for(asking, 20) == 200
        assert len(agent.loads) == 1


async def test_a_model_that_is_brought_in_is_waited_for_and_loaded_from_there(
    http: aiohttp.ClientSession, agent: StubAgent, store: Store, model: ModelRef
) -> None:
    source = ModelSource(uri="file:///models/tiny")
    ingestion = Ingestion(model=ref_to_proto(model), source=source, reason="fetching")
    ingestion.state = model_pb2.INGESTION_STATE_FETCHING
    await store.put(key_of(IngestionKey(model)), dumps(ingestion))
    asking = asyncio.create_task(ask(http))
    await asyncio.sleep(0.5)
    assert not asking.done()
    assert agent.loads == []
    ingestion.state = model_pb2.INGESTION_STATE_DONE
    ingestion.locations.append("s3://store/tiny")
    await store.put(key_of(IngestionKey(model)), dumps(ingestion))
    assert await asking == 200
    assert agent.loads[0].spec.source.uri == "s3://store/tiny"


@pytest.mark.usefixtures("model")
async def test_an_agent_that_appears_in_time_is_used(
    settings: OrchestratorSettings, store: Store
) -> None:
    patient = replace(settings, no_agent_seconds=20.0)
    async with running(patient, store) as door, aiohttp.ClientSession() as http:
        asking = asyncio.create_task(ask(http, f"http://{door.http_address}/v1/completions"))
        await asyncio.sleep(0.1)
        async with stub_agent(store) as late:
            assert await asking == 200
            assert len(late.loads) == 1


async def test_a_model_that_is_withdrawn_while_it_waits_is_not_found(
    settings: OrchestratorSettings, store: Store, model: ModelRef
) -> None:
    patient = replace(settings, no_agent_seconds=20.0)
    async with running(patient, store) as door, aiohttp.ClientSession() as http:
        asking = asyncio.create_task(ask(http, f"http://{door.http_address}/v1/completions"))
        await asyncio.sleep(0.1)
        await store.delete(key_of(ModelKey(model)))
        assert await asking == 404


@pytest.mark.usefixtures("model")
async def test_holding_has_an_end(
    settings: OrchestratorSettings, store: Store, agent: StubAgent
) -> None:
    agent.may_load.clear()
    impatient = replace(settings, hold=HoldLimits(seconds=0.2))
    async with (
        running(impatient, store) as door,
        openai.AsyncOpenAI(
            base_url=f"http://{door.http_address}/v1", api_key="none", max_retries=0
        ) as client,
    ):
        with pytest.raises(openai.InternalServerError) as caught:
            await client.completions.create(model="tiny", prompt="x")
        assert caught.value.status_code == 504
        assert caught.value.code == "deadline_exceeded"
        assert caught.value.response.headers["Retry-After"] == "5"
        agent.may_load.set()
        answer = await client.completions.create(model="tiny", prompt="x")
        assert answer.choices[0].text == "one two three"
        assert len(agent.loads) == 1, "the load goes on when nobody waits"


async def test_an_agent_that_loses_the_model_is_asked_to_load_it_again(
    http: aiohttp.ClientSession, agent: StubAgent, model: ModelRef
) -> None:
    assert await ask(http) == 200
    await agent.hold(ref_to_proto(model), model_pb2.MODEL_STATE_RECOVERING)
    assert await ask(http) == 200
    assert len(agent.loads) == 2


async def test_with_the_store_away_what_serves_goes_on(
    http: aiohttp.ClientSession,
    store: Store,
    agent: StubAgent,
    model: ModelRef,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await ask(http) == 200

    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("away")

    for call in ("get", "list_prefix", "lease"):
        monkeypatch.setattr(store, call, away)
    assert await ask(http) == 200
    await agent.hold(ref_to_proto(model), model_pb2.MODEL_STATE_RECOVERING)
    assert await ask(http) == 503


async def test_an_agent_that_knows_better_than_the_view_is_asked_again_or_another(
    model: ModelRef, agent: StubAgent, http: aiohttp.ClientSession
) -> None:
    """A worker has just died, and what its agent wrote of it is still on its way."""
    await agent.hold(ref_to_proto(model))
    died = True

    async def script(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        if died:
            raise NoAgent("the model is Recovering here", retry_after=1.0)
        async for event in saying(start):
            yield event

    agent.script = script
    asking = asyncio.create_task(ask(http))
    await asyncio.wait_for(agent.asked.wait(), 10)
    agent.loads.clear()
    agent.loading.clear()
    await agent.hold(ref_to_proto(model), model_pb2.MODEL_STATE_RECOVERING)
    await asyncio.wait_for(agent.loading.wait(), 10)
    died = False
    assert await asking == 200
    assert len(agent.loads) == 1


async def test_an_agent_that_refuses_what_it_says_it_serves_is_not_asked_for_ever(
    model: ModelRef, agent: StubAgent, http: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(generation, "STALE_SECONDS", 0.1)
    await agent.hold(ref_to_proto(model))

    async def refuses(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        raise NoAgent("not here")
        yield GenerateEvent()

    agent.script = refuses
    assert await asyncio.wait_for(ask(http), 10) == 503

    async def refuses_and_changes(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        await agent.hold(ref_to_proto(model))  # the view has changed by the time it is heard
        await asyncio.sleep(0.05)
        raise NoAgent("not here")
        yield GenerateEvent()

    agent.script = refuses_and_changes
    assert await asyncio.wait_for(ask(http), 10) == 503
