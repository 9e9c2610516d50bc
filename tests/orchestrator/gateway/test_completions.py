"""``/v1/completions`` as the real client of OpenAI sees it, over a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import Cancelled, OutOfMemory, WorkerCrashed
from lite_llm.orchestrator import Orchestrator
from lite_llm.proto.v1.generate_pb2 import (
    FINISH_REASON_CANCELLED,
    GenerateEvent,
    GenerateFinished,
    GenerateStart,
)
from lite_llm.testing.stub_agent import StubAgent, saying

pytestmark = pytest.mark.usefixtures("model")


async def stuck(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
    """Says the first word and no more."""
    async for event in saying(start):
        yield event
        if event.sequence == 1:
            await asyncio.Event().wait()


async def drained(stream: AsyncIterator[object]) -> None:
    async for _ in stream:
        pass


async def test_a_whole_answer(client: openai.AsyncOpenAI, agent: StubAgent) -> None:
    answer = await client.completions.create(model="tiny", prompt="Count:", max_tokens=3)
    assert answer.object == "text_completion"
    assert answer.model == "tiny"
    assert answer.id.startswith("cmpl-")
    assert answer._request_id == answer.id
    assert [(choice.text, choice.finish_reason) for choice in answer.choices] == [
        ("one two three", "stop")
    ]
    assert answer.usage is not None
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 1},
    }


async def test_a_streamed_answer(client: openai.AsyncOpenAI, agent: StubAgent) -> None:
    stream = await client.completions.create(
        model="tiny", prompt="Count:", stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert [choice.text for chunk in chunks for choice in chunk.choices] == [
        "one", " two", " three", "",
    ]  # fmt: skip
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons == [None, None, None, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.usage is not None for chunk in chunks] == [False] * 4 + [True]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 6


async def test_a_stream_without_usage_ends_with_done(
    http: aiohttp.ClientSession, agent: StubAgent
) -> None:
    body = {"model": "tiny", "prompt": "Count:", "stream": True}
    async with http.post("/v1/completions", json=body) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        events = (await response.text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert len(events) == 6


async def test_the_synchronous_client(orchestrator: Orchestrator, agent: StubAgent) -> None:
    def ask() -> str:
        with openai.OpenAI(
            base_url=f"http://{orchestrator.http_address}/v1", api_key="none", max_retries=0
        ) as client:
            stream = client.completions.create(model="default/tiny", prompt="Count:", stream=True)
            return "".join(choice.text for chunk in stream for choice in chunk.choices)

    assert await asyncio.to_thread(ask) == "one two three"


async def test_what_is_asked_for_reaches_the_agent(
    client: openai.AsyncOpenAI, agent: StubAgent
) -> None:
    await client.completions.create(
        model="tiny", prompt=[5, 6, 7], max_tokens=9, temperature=0, top_p=0.5, seed=-1,
        stop=["\n", "."],
    )  # fmt: skip
    await client.completions.create(model="tiny", prompt=["Count:"], stop="x", seed=7)
    exact, plain = agent.generations
    assert list(exact.token_ids.ids) == [5, 6, 7]
    assert exact.model.name == "tiny"
    assert exact.sampling.max_tokens == 9
    assert exact.sampling.temperature == 0
    assert exact.sampling.top_p == 0.5
    assert exact.sampling.seed == 2**64 - 1
    assert list(exact.sampling.stop) == ["\n", "."]
    assert plain.text == "Count:"
    assert plain.sampling.max_tokens == 16
    assert plain.sampling.temperature == 1
    assert plain.sampling.seed == 7
    assert list(plain.sampling.stop) == ["x"]
    assert exact.request_id != plain.request_id


async def test_an_unknown_model_is_not_found(client: openai.AsyncOpenAI, agent: StubAgent) -> None:
    for name in ("absent", "no/such", "Not A Name!", "a/b/c"):
        with pytest.raises(openai.NotFoundError) as caught:
            await client.completions.create(model=name, prompt="x")
        assert caught.value.code == "model_not_found"
        assert caught.value.param == "model"
    assert agent.loads == []


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": None}, "prompt", "invalid_request"),
        ({"prompt": ""}, "prompt", "invalid_request"),
        ({"prompt": []}, "prompt", "invalid_request"),
        ({"prompt": [-1]}, "prompt[0]", "invalid_request"),
        ({"prompt": ["a", "b"]}, "prompt", "unsupported"),
        ({"prompt": [[1], [2]]}, "prompt", "unsupported"),
        ({"model": 3}, "model", "invalid_request"),
        ({"max_tokens": "many"}, "max_tokens", "invalid_request"),
        ({"max_tokens": 0}, "max_tokens", "invalid_request"),
        ({"max_tokens": 2**40}, "max_tokens", "invalid_request"),
        ({"temperature": -0.1}, "temperature", "invalid_request"),
        ({"temperature": True}, "temperature", "invalid_request"),
        ({"top_p": 0}, "top_p", "invalid_request"),
        ({"stop": ["a", 1]}, "stop[1]", "invalid_request"),
        ({"stop": [""]}, "stop[0]", "invalid_request"),
        ({"stream": "yes"}, "stream", "invalid_request"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage",
         "invalid_request"),
        ({"stream_options": {}}, "stream_options", "invalid_request"),
        ({"n": 2}, "n", "unsupported"),
        ({"best_of": 2}, "best_of", "unsupported"),
        ({"echo": True}, "echo", "unsupported"),
        ({"logprobs": 0}, "logprobs", "unsupported"),
        ({"suffix": "end"}, "suffix", "unsupported"),
        ({"presence_penalty": 0.5}, "presence_penalty", "unsupported"),
        ({"logit_bias": {"3": 1}}, "logit_bias", "unsupported"),
    ],
)  # fmt: skip
async def test_a_wrong_field_is_named(
    http: aiohttp.ClientSession, agent: StubAgent, fields: dict[str, Any], param: str, code: str
) -> None:
    body = {"model": "tiny", "prompt": "x", **fields}
    async with http.post("/v1/completions", json=body) as response:
        error = (await response.json())["error"]
    assert response.status == 400
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"
    assert param.partition("[")[0] in error["message"]


async def test_a_missing_field_is_named(http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/completions", json={"model": "tiny"}) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "prompt"


async def test_neutral_and_unknown_fields_are_accepted(
    http: aiohttp.ClientSession, agent: StubAgent
) -> None:
    neutral: dict[str, Any] = {
        "n": 1, "best_of": 1, "echo": False, "logprobs": None, "suffix": None, "stop": None,
        "presence_penalty": 0, "logit_bias": {}, "user": "me", "no_such_field": [1],
    }  # fmt: skip
    body = {"model": "tiny", "prompt": "x", **neutral}
    async with http.post("/v1/completions", json=body) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"x":' + b"[" * 100_000),
        *(b'{"model":"\xff"}', b'{"\xff":1}', b'{"model":"\\ud800"}'),
    ],
)
async def test_malformed_json_is_refused(http: aiohttp.ClientSession, body: bytes) -> None:
    async with http.post("/v1/completions", data=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "invalid_request"


async def test_an_oversized_body_is_refused(http: aiohttp.ClientSession) -> None:
    body = {"model": "tiny", "prompt": "x" * (256 << 10)}
    async with http.post("/v1/completions", json=body) as response:
        assert response.status == 413
        error = (await response.json())["error"]
    assert error["code"] == "request_entity_too_large"
    assert error["type"] == "invalid_request_error"


async def test_a_client_that_vanishes_takes_its_work_along(
    http: aiohttp.ClientSession, agent: StubAgent
) -> None:
    agent.script = stuck
    body = {"model": "tiny", "prompt": "x", "stream": True}
    response = await http.post("/v1/completions", json=body)
    assert b"one" in await response.content.readline()
    assert not agent.withdrawn.is_set()
    response.close()
    await asyncio.wait_for(agent.withdrawn.wait(), 10)


async def test_a_client_that_gives_up_waiting_takes_its_work_along(
    http: aiohttp.ClientSession, agent: StubAgent
) -> None:
    agent.script = stuck
    body = {"model": "tiny", "prompt": "x"}
    asking = asyncio.create_task(http.post("/v1/completions", json=body))
    await asyncio.wait_for(agent.asked.wait(), 10)
    asking.cancel()
    await asyncio.wait_for(agent.withdrawn.wait(), 10)


async def crashing(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
    async for event in saying(start, ["one"]):
        if event.HasField("finished"):
            raise WorkerCrashed("the worker crashed", remedy="try again")
        yield event


async def stopping(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
    async for event in saying(start, ["one"]):
        if event.HasField("finished"):
            raise Cancelled("the server stops")
        yield event


async def skipping(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
    async for event in saying(start):
        if event.sequence != 2:
            yield event


async def breaking_off(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
    async for event in saying(start):
        if not event.HasField("finished"):
            yield event


async def giving_up(start: GenerateStart) -> AsyncIterator[GenerateEvent]:
    async for event in saying(start, ["one"]):
        if event.HasField("finished"):
            event.finished.CopyFrom(GenerateFinished(reason=FINISH_REASON_CANCELLED))
        yield event


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (crashing, "worker_crashed"),
        (skipping, "internal"),
        (breaking_off, "agent_lost"),
        (giving_up, "agent_lost"),
        (stopping, "agent_lost"),
    ],
)
async def test_a_stream_that_breaks_says_so(
    client: openai.AsyncOpenAI, agent: StubAgent, script: Any, code: str
) -> None:
    agent.script = script
    stream = await client.completions.create(model="tiny", prompt="x", stream=True)
    assert (await anext(aiter(stream))).choices[0].text == "one"
    with pytest.raises(openai.APIError) as caught:
        await drained(stream)
    assert caught.value.code == code
    with pytest.raises(openai.InternalServerError) as whole:
        await client.completions.create(model="tiny", prompt="x")
    assert whole.value.code == code


async def test_an_agent_that_dies_ends_the_stream_with_an_error(
    client: openai.AsyncOpenAI, agent: StubAgent
) -> None:
    agent.script = stuck
    stream = await client.completions.create(model="tiny", prompt="x", stream=True)
    assert (await anext(aiter(stream))).choices[0].text == "one"
    await agent.die()
    with pytest.raises(openai.APIError) as caught:
        await drained(stream)
    assert caught.value.code == "agent_lost"


async def test_a_load_that_fails_has_its_own_status(
    http: aiohttp.ClientSession, agent: StubAgent, model: ModelRef
) -> None:
    agent.load_error = OutOfMemory("no room", where="stub", remedy="unload one", retry_after=2.5)
    body = {"model": "tiny", "prompt": "x", "stream": True}
    async with http.post("/v1/completions", json=body) as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "3"
        assert (await response.json())["error"]["code"] == "out_of_memory"
    agent.load_error = None
    async with http.post("/v1/completions", json=body) as response:
        assert response.status == 200


async def test_without_an_agent_there_is_no_hang(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        await client.completions.create(model="tiny", prompt="x")
    assert caught.value.status_code == 503
    assert caught.value.code == "no_agent"
