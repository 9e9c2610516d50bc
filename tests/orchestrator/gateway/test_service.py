"""The gRPC service, over a real channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from lite_llm.contracts import ModelRef
from lite_llm.metastore import Store
from lite_llm.orchestrator import Orchestrator, OrchestratorSettings, running
from lite_llm.proto.v1.agent_pb2 import Health
from lite_llm.proto.v1.generate_pb2 import (
    FINISH_REASON_CANCELLED,
    FINISH_REASON_STOP,
    GenerateCancel,
    GenerateEvent,
    GenerateRequest,
    GenerateStart,
    TokenIds,
)
from lite_llm.proto.v1.orchestrator_pb2 import (
    DrainAgentRequest,
    ListAgentsRequest,
    ListModelsRequest,
    LoadModelRequest,
    PinRequest,
    ScoreAgentsRequest,
    UnloadModelRequest,
    ViewEvent,
    WatchRequest,
)
from lite_llm.proto.v1.orchestrator_pb2_grpc import OrchestratorStub
from lite_llm.testing.stub_agent import StubAgent, saying, stub_agent
from lite_llm.wire import open_channel, ref_to_proto

if TYPE_CHECKING:
    from lite_llm.proto.v1.orchestrator_pb2_grpc import OrchestratorAsyncStub


@pytest.fixture
async def door(orchestrator: Orchestrator) -> AsyncIterator[OrchestratorAsyncStub]:
    async with open_channel(orchestrator.grpc_address) as channel:
        yield OrchestratorStub(channel)


def start_of(model: ModelRef) -> GenerateRequest:
    return GenerateRequest(
        start=GenerateStart(request_id="r1", model=ref_to_proto(model), text="Count:")
    )


async def test_a_generation_is_one_sequence_from_load_to_finish(
    door: OrchestratorAsyncStub, agent: StubAgent, model: ModelRef
) -> None:
    call = door.Generate()
    await call.write(start_of(model))
    events: list[GenerateEvent] = [event async for event in call]
    assert [event.sequence for event in events] == list(range(len(events)))
    kinds = [event.WhichOneof("event") for event in events]
    first = kinds.index("started")
    assert set(kinds[:first]) == {"progress"}
    assert kinds[first:] == ["started", "tokens", "tokens", "tokens", "finished"]
    assert "".join(event.tokens.text for event in events) == "one two three"
    assert events[-1].finished.reason == FINISH_REASON_STOP


async def test_a_cancel_is_heard_while_the_request_waits_for_its_turn(
    settings: OrchestratorSettings, store: Store, agent: StubAgent, model: ModelRef
) -> None:
    async def stuck(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        await asyncio.Event().wait()
        yield GenerateEvent()

    agent.script = stuck
    async with (
        running(replace(settings, max_running=1), store) as busy,
        open_channel(busy.grpc_address) as channel,
    ):
        door: OrchestratorAsyncStub = OrchestratorStub(channel)
        first, second = door.Generate(), door.Generate()
        await first.write(start_of(model))
        await asyncio.wait_for(agent.asked.wait(), 10)
        await second.write(start_of(model))
        await second.write(GenerateRequest(cancel=GenerateCancel()))
        async with asyncio.timeout(10):
            events = [event async for event in second]
        assert [event.finished.reason for event in events] == [FINISH_REASON_CANCELLED]
        first.cancel()


async def test_answers_without_number_are_refused(
    door: OrchestratorAsyncStub, agent: StubAgent, model: ModelRef
) -> None:
    request = start_of(model)
    request.start.sampling.n = 1 << 20
    call = door.Generate()
    await call.write(request)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [event async for event in call]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not agent.generations


async def test_a_cancel_ends_the_generation_as_finished(
    door: OrchestratorAsyncStub, agent: StubAgent, model: ModelRef
) -> None:
    async def stuck(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        async for event in saying(start):
            yield event
            if event.sequence == 2:
                await asyncio.Event().wait()

    agent.script = stuck
    call = door.Generate()
    await call.write(start_of(model))
    events: list[GenerateEvent] = []
    async for event in call:
        events.append(event)
        if event.tokens.text == " two":
            await call.write(GenerateRequest(cancel=GenerateCancel(reason="enough")))
    assert [event.sequence for event in events] == list(range(len(events)))
    finished = events[-1].finished
    assert finished.reason == FINISH_REASON_CANCELLED
    assert (finished.usage.prompt_tokens, finished.usage.completion_tokens) == (3, 2)
    await asyncio.wait_for(agent.withdrawn.wait(), 10)


async def test_a_caller_that_vanishes_takes_its_work_along(
    door: OrchestratorAsyncStub, agent: StubAgent, model: ModelRef
) -> None:
    async def stuck(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        async for event in saying(start):
            yield event
            await asyncio.Event().wait()

    agent.script = stuck
    call = door.Generate()
    await call.write(start_of(model))
    await asyncio.wait_for(agent.asked.wait(), 10)
    call.cancel()
    await asyncio.wait_for(agent.withdrawn.wait(), 10)


async def test_a_stream_must_begin_with_a_start(door: OrchestratorAsyncStub) -> None:
    call = door.Generate()
    await call.write(GenerateRequest(cancel=GenerateCancel()))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_load_tells_its_progress(
    door: OrchestratorAsyncStub, agent: StubAgent, model: ModelRef
) -> None:
    agent.may_load.clear()
    messages = []
    async for progress in door.Load(LoadModelRequest(model=ref_to_proto(model))):
        messages.append(progress.message)
        if progress.done_bytes:
            agent.may_load.set()
    assert messages[-1] == "reading 1 of 2 bytes"
    assert [load.spec.source.uri for load in agent.loads] == ["file:///models/tiny"]
    assert [_ async for _ in door.Load(LoadModelRequest(model=ref_to_proto(model)))] == []
    assert len(agent.loads) == 1


async def loaded(door: OrchestratorAsyncStub, model: ModelRef, node: str = "") -> None:
    async for _ in door.Load(LoadModelRequest(model=ref_to_proto(model), node=node)):
        pass


async def test_a_model_is_loaded_on_a_node_and_unloaded_again(
    door: OrchestratorAsyncStub, store: Store, agent: StubAgent, model: ModelRef
) -> None:
    async with stub_agent(store, "other") as other:
        await loaded(door, model)
        for node in ("stub", "other"):
            await loaded(door, model, node)
        assert other.loads
        await door.Unload(UnloadModelRequest(model=ref_to_proto(model), node="other"))
        assert (len(other.unloads), len(agent.unloads)) == (1, 0)
        await door.Unload(UnloadModelRequest(model=ref_to_proto(model)))
        assert len(agent.unloads) == 1


async def test_two_loads_of_a_model_at_once_are_refused(
    door: OrchestratorAsyncStub, agent: StubAgent, model: ModelRef
) -> None:
    agent.may_load.clear()
    first = asyncio.create_task(loaded(door, model, "stub"))
    await agent.loading.wait()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await loaded(door, model, "stub")
    assert caught.value.code() is grpc.StatusCode.ABORTED
    agent.may_load.set()
    await first


async def test_what_is_not_there_is_not_found(
    door: OrchestratorAsyncStub, agent: StubAgent, model: ModelRef
) -> None:
    nothing, ref = ModelRef("default", "nothing"), ref_to_proto(model)
    for call in (
        door.Unload(UnloadModelRequest(model=ref_to_proto(nothing))),
        door.Unload(UnloadModelRequest(model=ref, node="n9")),
        door.Pin(PinRequest(model=ref, node="n9", pinned=True)),
        door.Drain(DrainAgentRequest(node="n9")),
        door.ScoreAgents(ScoreAgentsRequest(model=ref_to_proto(nothing))),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_drained_agent_takes_nothing_new(
    door: OrchestratorAsyncStub, agent: StubAgent, model: ModelRef
) -> None:
    answer = await door.Drain(DrainAgentRequest(node="stub", grace_seconds=1.0))
    assert answer.handed_over == 3
    scores = await door.ScoreAgents(ScoreAgentsRequest(model=ref_to_proto(model)))
    assert [(each.node, each.excluded) for each in scores.candidates] == [("stub", "draining")]


async def test_scores_are_told_with_every_term(
    door: OrchestratorAsyncStub, agent: StubAgent, model: ModelRef
) -> None:
    prompt = TokenIds(ids=range(256))
    await loaded(door, model)
    call = door.Generate()
    start = GenerateStart(request_id="r", model=ref_to_proto(model), token_ids=prompt)
    await call.write(GenerateRequest(start=start))
    assert [event async for event in call]
    request = ScoreAgentsRequest(model=ref_to_proto(model), prompt=prompt)
    (score,) = (await door.ScoreAgents(request)).candidates
    assert (score.cache_level, score.kv_hit_rate, score.queue_length) == (0, 1.0, 0)
    assert score.score == -score.weights.beta
    assert score.weights.delta == 1.0


async def test_lists_show_the_view(
    door: OrchestratorAsyncStub, agent: StubAgent, model: ModelRef
) -> None:
    async for _ in door.Load(LoadModelRequest(model=ref_to_proto(model))):
        pass
    (seen,) = (await door.ListModels(ListModelsRequest(namespace="default"))).models
    assert seen.spec.ref == ref_to_proto(model)
    assert [held.node for held in seen.residencies] == ["stub"]
    assert not (await door.ListModels(ListModelsRequest(namespace="other"))).models
    agents = await door.ListAgents(ListAgentsRequest())
    assert [status.grpc_address for status in agents.agents] == [agent.status.grpc_address]
    assert agents.view_revision > 0


async def test_a_watch_tells_the_whole_then_changes(
    door: OrchestratorAsyncStub, store: Store, agent: StubAgent, model: ModelRef
) -> None:
    async with asyncio.timeout(10):
        call = door.Watch(WatchRequest())
        first = await anext(aiter(call))
        assert [seen.spec.ref.name for seen in first.models] == ["tiny"]
        assert [status.node for status in first.agents] == ["stub"]

        async def following() -> AsyncGenerator[ViewEvent]:
            async for event in call:
                yield event

        async with aclosing(following()) as events:
            async with stub_agent(store, "other"):
                event = await anext(events)
                assert [status.node for status in event.agents] == ["other"]
                assert not event.models
            event = await anext(events)
            assert list(event.removed_agents) == ["other"]
            await agent.register(health=Health(healthy=False, reason="on fire"))
            event = await anext(events)
            assert [status.health.reason for status in event.agents] == ["on fire"]
            await agent.hold(ref_to_proto(model))
            event = await anext(events)
            assert [held.node for seen in event.models for held in seen.residencies] == ["stub"]
            assert not event.agents
        call.cancel()
