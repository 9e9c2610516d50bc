"""One name, one version after another: switched when the next is there, and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc.aio
import pytest

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import StorageFailed
from lite_llm.contracts.keyspace import AliasKey, ModelKey, key_of
from lite_llm.metastore import Store
from lite_llm.orchestrator import Orchestrator, OrchestratorSettings, running
from lite_llm.proto.v1.generate_pb2 import GenerateEvent, GenerateStart
from lite_llm.proto.v1.model_pb2 import Alias, ModelSource, ModelSpec
from lite_llm.proto.v1.orchestrator_pb2 import (
    DeleteAliasRequest,
    ListModelsRequest,
    RollbackAliasRequest,
    SwitchAliasRequest,
)
from lite_llm.proto.v1.orchestrator_pb2_grpc import OrchestratorStub
from lite_llm.testing.stub_agent import StubAgent, saying
from lite_llm.wire import dumps, loads, open_channel, ref_from_proto, ref_to_proto

if TYPE_CHECKING:
    from lite_llm.proto.v1.orchestrator_pb2_grpc import OrchestratorAsyncStub

CHAT, BLUE, GREEN = (ModelRef("default", name) for name in ("chat", "chat-v1", "chat-v2"))
BODY = {"model": "chat", "prompt": "x"}


@pytest.fixture(autouse=True)
async def _declared(store: Store) -> None:
    for model in (BLUE, GREEN):
        await declare(store, model)


async def declare(store: Store, model: ModelRef, **fields: Any) -> None:
    spec = ModelSpec(
        ref=ref_to_proto(model),
        source=ModelSource(uri=f"file:///{model.name}"),
        version=f"{model.name}.0.0",
        **fields,
    )
    await store.put(key_of(ModelKey(model)), dumps(spec))


@pytest.fixture
async def door(orchestrator: Orchestrator) -> AsyncIterator[OrchestratorAsyncStub]:
    async with open_channel(orchestrator.grpc_address) as channel:
        yield OrchestratorStub(channel)


async def switched(door: OrchestratorAsyncStub, target: ModelRef) -> list[Alias]:
    request = SwitchAliasRequest(ref=ref_to_proto(CHAT), target=ref_to_proto(target))
    async with asyncio.timeout(20):
        return [alias async for alias in door.SwitchAlias(request)]


async def rolled_back(door: OrchestratorAsyncStub) -> list[Alias]:
    request = RollbackAliasRequest(ref=ref_to_proto(CHAT))
    async with asyncio.timeout(20):
        return [alias async for alias in door.RollbackAlias(request)]


async def answering(http: aiohttp.ClientSession) -> str:
    async with http.post("/v1/completions", json=BODY) as response:
        assert response.status == 200, await response.text()
        model = response.headers["X-Lite-Llm-Model"]
        assert response.headers["X-Lite-Llm-Version"] == f"{model}.0.0"
        return model


async def test_a_name_moves_when_the_next_model_is_there_and_back_at_once(
    http: aiohttp.ClientSession, door: OrchestratorAsyncStub, agent: StubAgent
) -> None:
    (new,) = await switched(door, BLUE)
    assert ref_from_proto(new.target) == BLUE
    assert await answering(http) == "chat-v1"
    agent.may_load.clear()
    switching = asyncio.create_task(switched(door, GREEN))
    async with asyncio.timeout(20):
        while len(agent.loads) < 2:  # noqa: ASYNC110 - of a stub
            await asyncio.sleep(0.02)
    assert await answering(http) == "chat-v1"  # the next one is only loading
    agent.may_load.set()
    steps = await switching
    assert ref_from_proto(steps[0].next) == GREEN
    assert ref_from_proto(steps[-1].target) == GREEN
    assert steps[-1].reason == "switched from default/chat-v1"
    assert await answering(http) == "chat-v2"
    back = (await rolled_back(door))[-1]
    assert (ref_from_proto(back.target), ref_from_proto(back.previous)) == (BLUE, GREEN)
    assert await answering(http) == "chat-v1"
    assert len(agent.loads) == 2
    assert agent.unloads == []


async def test_models_are_listed_with_their_further_names(
    http: aiohttp.ClientSession, door: OrchestratorAsyncStub, agent: StubAgent, store: Store
) -> None:
    await switched(door, BLUE)
    await declare(store, GREEN, aliases=["newest", "UPPER", "other/newest"])
    async with asyncio.timeout(20):
        while True:
            async with http.get("/v1/models") as response:
                told = {one["id"]: one for one in (await response.json())["data"]}
            if "newest" in told:
                break
    assert set(told) == {"chat", "chat-v1", "chat-v2", "newest", "other/newest"}
    assert (told["chat"]["root"], told["chat"]["version"]) == ("chat-v1", "chat-v1.0.0")
    assert (told["newest"]["root"], "root" in told["chat-v1"]) == ("chat-v2", False)
    async with http.get("/v1/models/newest") as response:
        assert (await response.json())["root"] == "chat-v2"
    async with http.post("/v1/completions", json={**BODY, "model": "newest"}) as response:
        assert response.headers["X-Lite-Llm-Model"] == "chat-v2"
    listed = await door.ListModels(ListModelsRequest())
    assert [ref_from_proto(alias.ref) for alias in listed.aliases] == [CHAT]


async def test_a_switch_under_load_fails_nothing_and_ends_what_had_begun_where_it_was(
    http: aiohttp.ClientSession, door: OrchestratorAsyncStub, agent: StubAgent
) -> None:
    async def slowly(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        async for event in saying(start):
            await asyncio.sleep(0.01)
            yield event

    agent.script = slowly
    await switched(door, BLUE)
    answers, over = list[tuple[str, int]](), asyncio.Event()

    async def keep_asking() -> None:
        while not over.is_set():
            async with http.post("/v1/completions", json={**BODY, "stream": True}) as response:
                assert response.status == 200
                model, text = response.headers["X-Lite-Llm-Model"], await response.text()
                assert text.endswith("data: [DONE]\n\n")
                answers.append((model, text.count('"text"')))

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(keep_asking())
        for target in (GREEN, BLUE, GREEN):
            await asyncio.sleep(0.1)
            await switched(door, target)
        await asyncio.sleep(0.1)
        over.set()
    models = [model for model, _ in answers]
    assert {"chat-v1", "chat-v2"} == set(models)
    assert models[-1] == "chat-v2"
    assert len({count for _, count in answers}) == 1  # every stream is whole
    assert agent.unloads == []


async def test_a_switch_that_cant_be_is_told_and_can_be_withdrawn(
    http: aiohttp.ClientSession, door: OrchestratorAsyncStub, agent: StubAgent
) -> None:
    await switched(door, BLUE)
    assert await answering(http) == "chat-v1"
    agent.load_error = StorageFailed("the disk is broken")
    switching = asyncio.create_task(switched(door, GREEN))
    request = ListModelsRequest()
    async with asyncio.timeout(20):
        while True:
            (alias,) = (await door.ListModels(request)).aliases
            if "the disk is broken" in alias.reason:
                break
            await asyncio.sleep(0.05)
    assert await answering(http) == "chat-v1"
    assert (await rolled_back(door))[-1].reason.endswith("the switch was withdrawn")
    assert ref_from_proto((await switching)[-1].target) == BLUE


async def test_another_orchestrator_ends_a_switch_whose_first_one_died(
    settings: OrchestratorSettings, store: Store, agent: StubAgent
) -> None:
    agent.may_load.clear()
    async with dying(settings, store) as door:
        await switched(door, BLUE)
        call = door.SwitchAlias(
            SwitchAliasRequest(ref=ref_to_proto(CHAT), target=ref_to_proto(GREEN))
        )
        assert ref_from_proto((await anext(aiter(call))).next) == GREEN
        call.cancel()
    agent.may_load.set()
    async with running(settings, store), asyncio.timeout(20):
        while True:
            entry = await store.get(key_of(AliasKey(CHAT)))
            assert entry is not None
            alias = loads(entry.value, Alias, where=entry.key)
            if ref_from_proto(alias.target) == GREEN:
                break
            await asyncio.sleep(0.05)
    assert not alias.HasField("next")


@asynccontextmanager
async def dying(
    settings: OrchestratorSettings, store: Store
) -> AsyncIterator[OrchestratorAsyncStub]:
    async with (
        running(replace(settings, claim_seconds=1.0), store) as orchestrator,
        open_channel(orchestrator.grpc_address) as channel,
    ):
        yield OrchestratorStub(channel)


async def refused(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(aiter(call))
    return caught.value.code()


async def test_what_makes_no_sense_is_refused(
    http: aiohttp.ClientSession, door: OrchestratorAsyncStub, agent: StubAgent
) -> None:
    chat, nobody = ref_to_proto(CHAT), ref_to_proto(ModelRef("default", "nobody"))
    switch, back = SwitchAliasRequest, RollbackAliasRequest
    assert await refused(door.SwitchAlias(switch(ref=chat, target=nobody))) == (
        grpc.StatusCode.NOT_FOUND
    )
    own = switch(ref=ref_to_proto(BLUE), target=ref_to_proto(GREEN))
    assert await refused(door.SwitchAlias(own)) == grpc.StatusCode.ABORTED
    assert await refused(door.RollbackAlias(back(ref=nobody))) == grpc.StatusCode.NOT_FOUND
    await switched(door, BLUE)
    assert await refused(door.RollbackAlias(back(ref=chat))) == grpc.StatusCode.ABORTED
    await door.DeleteAlias(DeleteAliasRequest(ref=chat))
    async with asyncio.timeout(20):
        while True:
            async with http.post("/v1/completions", json=BODY) as response:
                if response.status == 404:
                    break
    with pytest.raises(grpc.aio.AioRpcError, match="there is no alias"):
        await door.DeleteAlias(DeleteAliasRequest(ref=chat))


async def test_there_is_no_way_back_to_a_model_that_is_gone(
    door: OrchestratorAsyncStub, agent: StubAgent, store: Store
) -> None:
    await switched(door, BLUE)
    await switched(door, GREEN)
    await store.delete(key_of(ModelKey(BLUE)))
    back = RollbackAliasRequest(ref=ref_to_proto(CHAT))
    async with asyncio.timeout(20):
        while True:
            listed = await door.ListModels(ListModelsRequest())
            if len(listed.models) == 1:
                break
    assert await refused(door.RollbackAlias(back)) == grpc.StatusCode.NOT_FOUND


async def test_an_alias_of_nonsense_hurts_nobody(
    http: aiohttp.ClientSession, door: OrchestratorAsyncStub, agent: StubAgent, store: Store
) -> None:
    nonsense = Alias(ref=ref_to_proto(CHAT), target=ref_to_proto(BLUE))
    nonsense.next.name = "NO/NAME"
    await store.put(key_of(AliasKey(CHAT)), dumps(nonsense))
    async with http.post("/v1/completions", json={**BODY, "model": "chat-v1"}) as response:
        assert response.status == 200
    async with http.post("/v1/completions", json=BODY) as response:
        assert response.status == 404
    await store.delete(key_of(AliasKey(CHAT)))
    (new,) = await switched(door, GREEN)
    assert ref_from_proto(new.target) == GREEN


async def test_a_new_model_of_the_names_own_goes_before_the_alias(
    http: aiohttp.ClientSession, door: OrchestratorAsyncStub, agent: StubAgent, store: Store
) -> None:
    await switched(door, BLUE)
    assert await answering(http) == "chat-v1"
    await declare(store, CHAT)
    async with asyncio.timeout(20):
        while True:
            if await answering(http) == "chat":
                break


async def test_a_declared_name_moves_no_sooner_than_others(
    http: aiohttp.ClientSession, door: OrchestratorAsyncStub, agent: StubAgent, store: Store
) -> None:
    await declare(store, BLUE, aliases=["chat"])
    async with asyncio.timeout(20):
        while "chat" not in await (await http.get("/v1/models")).text() or not agent.loads:
            await http.post("/v1/completions", json=BODY)
    assert await answering(http) == "chat-v1"
    agent.may_load.clear()
    switching = asyncio.create_task(switched(door, GREEN))
    async with asyncio.timeout(20):
        while len(agent.loads) < 2:  # noqa: ASYNC110 - of a stub
            await asyncio.sleep(0.02)
    assert await answering(http) == "chat-v1"
    agent.may_load.set()
    assert ref_from_proto((await switching)[-1].previous) == BLUE
    assert await answering(http) == "chat-v2"
    assert ref_from_proto((await rolled_back(door))[-1].target) == BLUE


@pytest.mark.parametrize("stream", [True, False])
async def test_a_version_of_several_lines_makes_no_headers(
    http: aiohttp.ClientSession, agent: StubAgent, store: Store, stream: bool
) -> None:
    spec = ModelSpec(ref=ref_to_proto(BLUE), version="1.0\r\nX-Evil: 1\n\nnew")
    await store.put(key_of(ModelKey(BLUE)), dumps(spec))
    async with asyncio.timeout(20):
        while "X-Evil" not in await (await http.get("/v1/models")).text():  # noqa: ASYNC110  # a view
            await asyncio.sleep(0.01)
    body = {**BODY, "model": "chat-v1", "stream": stream}
    async with http.post("/v1/completions", json=body) as response:
        assert response.status == 200
        assert response.headers["X-Lite-Llm-Version"] == "1.0 X-Evil: 1 new"
