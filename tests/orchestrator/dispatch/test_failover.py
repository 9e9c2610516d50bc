"""An agent fails in the middle of an answer, and its client notices nothing."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import AgentLost, Internal, NoAgent, Overloaded, WorkerCrashed
from lite_llm.dispatch import watchdog
from lite_llm.metastore import Store
from lite_llm.orchestrator import Orchestrator, OrchestratorSettings, running
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.generate_pb2 import (
    FINISH_REASON_CANCELLED,
    GenerateEvent,
    GenerateFinished,
    GenerateRequest,
    GenerateStart,
    PromptLogprobs,
)
from lite_llm.proto.v1.orchestrator_pb2_grpc import OrchestratorStub
from lite_llm.testing.stub_agent import StubAgent, saying, stub_agent
from lite_llm.wire import open_channel, ref_to_proto

Fault = Callable[[StubAgent], AsyncIterator[GenerateEvent]]
CHAT = ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Count:"}]})
TEXT = ("/v1/completions", {"prompt": "Count:"})


@pytest.fixture
async def pair(store: Store, model: ModelRef) -> AsyncIterator[tuple[StubAgent, StubAgent]]:
    """Two agents that serve the model; the first one is asked first."""
    async with stub_agent(store, "a") as first, stub_agent(store, "b") as second:
        for agent in (first, second):
            await agent.hold(ref_to_proto(model))
        await second.register(running_requests=1000)
        yield first, second


async def asked(http: aiohttp.ClientSession, path: str, **fields: Any) -> tuple[int, str]:
    """Status and body, without what differs from one request to the next."""
    async with http.post(path, json={"model": "tiny", **fields}) as response:
        text = await response.text()
    return response.status, re.sub(r'"(id|created)":("[^"]*"|\d+)', r'"\1":0', text)


async def crash(agent: StubAgent) -> AsyncIterator[GenerateEvent]:
    raise WorkerCrashed("the worker crashed")
    yield GenerateEvent()


async def hand_over(agent: StubAgent) -> AsyncIterator[GenerateEvent]:
    await agent.register(draining=True)
    raise AgentLost("the model leaves this agent: draining")
    yield GenerateEvent()


async def break_inside(agent: StubAgent) -> AsyncIterator[GenerateEvent]:
    raise Internal("an invariant does not hold")
    yield GenerateEvent()


async def end_early(agent: StubAgent) -> AsyncIterator[GenerateEvent]:
    for _ in range(0):
        yield GenerateEvent()


async def give_up(agent: StubAgent) -> AsyncIterator[GenerateEvent]:
    yield GenerateEvent(finished=GenerateFinished(reason=FINISH_REASON_CANCELLED))


async def say_nothing_known(agent: StubAgent) -> AsyncIterator[GenerateEvent]:
    yield GenerateEvent()


async def rate_a_prompt(agent: StubAgent) -> AsyncIterator[GenerateEvent]:
    yield GenerateEvent(prompt=PromptLogprobs())


async def skip(agent: StubAgent) -> AsyncIterator[GenerateEvent]:
    yield GenerateEvent(sequence=1000)


async def die(agent: StubAgent) -> AsyncIterator[GenerateEvent]:
    closing = asyncio.create_task(agent.die())
    await asyncio.Event().wait()
    yield GenerateEvent()
    await closing


async def stall(agent: StubAgent) -> AsyncIterator[GenerateEvent]:
    await asyncio.Event().wait()
    yield GenerateEvent()


async def freeze(agent: StubAgent) -> AsyncIterator[GenerateEvent]:
    agent.answers.clear()
    await asyncio.Event().wait()
    yield GenerateEvent()


async def lose_lease(agent: StubAgent) -> AsyncIterator[GenerateEvent]:
    await agent.store.delete(f"/lite-llm/v1/agents/{agent.node}")
    await asyncio.Event().wait()
    yield GenerateEvent()


FAULTS = [crash, hand_over, break_inside, end_early, give_up, say_nothing_known, rate_a_prompt,
          skip, die, stall, freeze, lose_lease]  # fmt: skip


def failing(agent: StubAgent, fault: Fault, after: int) -> Any:
    """A script that goes wrong when it has told the event of this number, or a later one."""

    async def script(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        async for event in saying(start):
            yield event
            if event.sequence >= after:
                async for wrong in fault(agent):
                    wrong.sequence = wrong.sequence or event.sequence + 1
                    yield wrong
                return

    return script


@pytest.fixture
def settings(settings: OrchestratorSettings) -> OrchestratorSettings:
    return replace(settings, stall_seconds=1.0)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_between_tokens_leaves_no_seam(
    http: aiohttp.ClientSession, pair: tuple[StubAgent, StubAgent], fault: Fault
) -> None:
    first, second = pair
    path, prompt = TEXT
    fields: dict[str, Any] = {
        **prompt,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    undisturbed = await asked(http, path, **fields)
    first.script = failing(first, fault, 2)
    async with asyncio.timeout(30):
        assert await asked(http, path, **fields) == undisturbed
    (resumed,) = second.generations
    assert resumed.resume.next_sequence == 3
    assert list(resumed.resume.token_ids.ids) == [1, 2]
    assert resumed.request_id == first.generations[-1].request_id
    assert resumed.created_at == first.generations[-1].created_at > 0
    assert resumed.sampling == first.generations[-1].sampling


@pytest.mark.parametrize("after", range(12))
@pytest.mark.parametrize(("path", "fields"), [CHAT, TEXT])
async def test_wherever_it_breaks_the_answer_is_the_same(
    http: aiohttp.ClientSession, pair: tuple[StubAgent, StubAgent], path: str, fields: Any,
    after: int,
) -> None:  # fmt: skip
    """Two answers at a time, with log probabilities, whole and as a stream."""
    first, _ = pair
    rated = {"logprobs": True, "top_logprobs": 2} if "messages" in fields else {"logprobs": 2}
    for stream in (False, True):
        wanted = {**fields, **rated, "n": 2, "seed": 3, "stream": stream}
        first.script = saying
        undisturbed = await asked(http, path, **wanted)
        assert undisturbed[0] == 200
        first.script = failing(first, crash, after)
        assert await asked(http, path, **wanted) == undisturbed


async def test_a_prompt_is_rated_once(
    http: aiohttp.ClientSession, pair: tuple[StubAgent, StubAgent]
) -> None:
    first, _ = pair
    wanted = {"prompt": "abc", "echo": True, "logprobs": 1}
    undisturbed = await asked(http, "/v1/completions", **wanted)
    for after in range(3):
        first.script = failing(first, crash, after)
        assert await asked(http, "/v1/completions", **wanted) == undisturbed


async def test_grpc_numbers_go_on(
    orchestrator: Orchestrator, pair: tuple[StubAgent, StubAgent], model: ModelRef
) -> None:
    first, second = pair
    first.script = failing(first, die, 2)
    start = GenerateStart(request_id="r", model=ref_to_proto(model), text="x")
    async with open_channel(orchestrator.grpc_address) as channel:
        call = OrchestratorStub(channel).Generate()
        await call.write(GenerateRequest(start=start))
        events: list[GenerateEvent] = [event async for event in call]
    told = [event for event in events if not event.HasField("progress")]
    assert [event.sequence for event in events] == list(range(len(events)))
    assert "".join(event.tokens.text for event in told) == "one two three"
    assert len(second.generations) == 1


async def test_a_dead_agent_in_a_late_view_is_passed_by(
    http: aiohttp.ClientSession, pair: tuple[StubAgent, StubAgent]
) -> None:
    first, second = pair
    await first.die()
    path, fields = TEXT
    for _ in range(5):
        assert (await asked(http, path, **fields))[0] == 200
    assert len(second.generations) == 5
    assert first.generations == []


@pytest.mark.parametrize("refusal", [NoAgent("draining"), Overloaded("full", retry_after=1.0)])
async def test_what_one_agent_refuses_another_takes(
    http: aiohttp.ClientSession, pair: tuple[StubAgent, StubAgent], refusal: Exception
) -> None:
    async def refuse(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        raise refusal
        yield GenerateEvent()

    pair[0].script = refuse
    path, fields = TEXT
    assert (await asked(http, path, **fields))[0] == 200
    pair[1].script = refuse
    assert (await asked(http, path, **fields))[0] in (429, 503)


async def test_alone_an_agent_loads_again_and_goes_on(
    http: aiohttp.ClientSession, agent: StubAgent, model: ModelRef
) -> None:
    path, fields = TEXT
    undisturbed = await asked(http, path, **fields, stream=True)

    async def fall(stub: StubAgent) -> AsyncIterator[GenerateEvent]:
        stub.script = saying
        await stub.hold(ref_to_proto(model), model_pb2.MODEL_STATE_RECOVERING)
        raise WorkerCrashed("the worker crashed")
        yield GenerateEvent()

    agent.script = failing(agent, fall, 2)
    assert await asked(http, path, **fields, stream=True) == undisturbed
    assert len(agent.loads) == 2


async def test_a_request_that_fells_every_worker_is_told_so(
    http: aiohttp.ClientSession, pair: tuple[StubAgent, StubAgent]
) -> None:
    for agent in pair:
        agent.script = lambda _, agent=agent: crash(agent)  # type: ignore[misc]  # bound at once
    path, fields = TEXT
    status, text = await asked(http, path, **fields)
    assert (status, json.loads(text)["error"]["code"]) == (503, "worker_crashed")
    assert sum(len(agent.generations) for agent in pair) <= 5


async def test_another_checkpoint_does_not_go_on(
    http: aiohttp.ClientSession, pair: tuple[StubAgent, StubAgent], model: ModelRef
) -> None:
    first, second = pair
    await first.hold(ref_to_proto(model), checkpoint_digest="aa")
    await second.hold(ref_to_proto(model), checkpoint_digest="bb")

    async def vanish(stub: StubAgent) -> AsyncIterator[GenerateEvent]:
        await stub.register(draining=True)
        raise AgentLost("draining")
        yield GenerateEvent()

    first.script = failing(first, vanish, 2)
    path, fields = TEXT
    status, text = await asked(http, path, **fields)
    assert (status, json.loads(text)["error"]["code"]) == (503, "agent_lost")
    assert second.generations == []
    assert (await asked(http, path, **fields))[0] == 200


async def test_silence_of_an_agent_that_lives_is_borne(
    http: aiohttp.ClientSession,
    pair: tuple[StubAgent, StubAgent],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long prompt is no stall."""
    monkeypatch.setattr(watchdog, "SILENCE_SECONDS", 0.05)

    async def slow(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
        await asyncio.sleep(1.5)
        async for event in saying(start):
            yield event

    pair[0].script = slow
    path, fields = TEXT
    assert (await asked(http, path, **fields))[0] == 200
    assert pair[1].generations == []


async def test_many_streams_move_at_once(
    settings: OrchestratorSettings, store: Store, pair: tuple[StubAgent, StubAgent]
) -> None:
    """The agent that most of them run on dies."""
    first, second = pair
    falls = asyncio.Event()

    async def fall(stub: StubAgent) -> AsyncIterator[GenerateEvent]:
        await falls.wait()
        raise AssertionError("dead agents do not get here")
        yield GenerateEvent()

    first.script = failing(first, fall, 2)
    path, fields = TEXT
    async with (
        running(settings, store) as door,
        aiohttp.ClientSession(
            f"http://{door.http_address}", connector=aiohttp.TCPConnector(limit=0)
        ) as http,
    ):
        asking = [asyncio.create_task(asked(http, path, **fields)) for _ in range(100)]
        while len(first.generations) + len(second.generations) < 100:  # noqa: ASYNC110 - of a stub
            await asyncio.sleep(0.01)
        await first.die()
        answers = await asyncio.gather(*asking)
    assert {status for status, _ in answers} == {200}
    assert len({text for _, text in answers}) == 1
