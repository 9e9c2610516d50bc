"""``/v1/chat/completions``: every field of an answer, whole and streamed."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import msgspec
import openai
import pytest

from lite_llm.testing.stub_agent import StubAgent

pytestmark = pytest.mark.usefixtures("model")

BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Count:"}]}


async def events_of(http: aiohttp.ClientSession, body: dict[str, Any]) -> list[Any]:
    """The JSON of a stream's events."""
    async with http.post("/v1/chat/completions", json=body | {"stream": True}) as response:
        assert response.status == 200, await response.text()
        *events, done, end = (await response.text()).split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [msgspec.json.decode(event.removeprefix("data: ")) for event in events]


async def test_a_whole_answer(http: aiohttp.ClientSession, agent: StubAgent) -> None:
    async with http.post("/v1/chat/completions", json=BODY) as response:
        answer = await response.json()
        assert response.headers["X-Request-Id"] == answer["id"]
    assert answer.pop("id").startswith("chatcmpl-")
    assert isinstance(answer.pop("created"), int)
    assert answer == {
        "object": "chat.completion",
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "one two three", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 3,
            "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    }


async def test_a_streamed_answer(http: aiohttp.ClientSession, agent: StubAgent) -> None:
    events = await events_of(http, BODY)
    assert (
        len({event["id"] for event in events}) == len({event["created"] for event in events}) == 1
    )
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert all("usage" not in event for event in events)
    assert [choice for event in events for choice in event["choices"]] == [
        {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        for delta, reason in (
            ({"role": "assistant", "content": ""}, None),
            ({"content": "one"}, None),
            ({"content": " two"}, None),
            ({"content": " three"}, None),
            ({}, "stop"),
        )
    ]


async def test_usage_comes_in_a_chunk_of_its_own(
    http: aiohttp.ClientSession, agent: StubAgent
) -> None:
    *events, last = await events_of(http, BODY | {"stream_options": {"include_usage": True}})
    assert [event["usage"] for event in events] == [None] * 5
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 6


async def test_several_answers(client: openai.AsyncOpenAI, agent: StubAgent) -> None:
    answer = await client.chat.completions.create(**BODY, n=3)
    assert [choice.message.content for choice in answer.choices] == [
        "one two three", "one#1 two#1 three#1", "one#2 two#2 three#2",
    ]  # fmt: skip
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 9)


async def test_log_probabilities(http: aiohttp.ClientSession, agent: StubAgent) -> None:
    asked = {"logprobs": True, "top_logprobs": 3}
    async with http.post("/v1/chat/completions", json=BODY | asked) as response:
        choice = (await response.json())["choices"][0]
    assert len(choice["logprobs"]["content"]) == 3
    assert choice["logprobs"]["content"][1] == {
        "token": " two",
        "logprob": -0.5,
        "bytes": [*b" two"],
        "top_logprobs": [
            {"token": " two!", "logprob": -0.25, "bytes": [*b" two!"]},
            {"token": " two", "logprob": -0.5, "bytes": [*b" two"]},
            {"token": " two?3", "logprob": -9999.0, "bytes": [*b" two?3"]},
        ],
    }
    async with http.post("/v1/chat/completions", json=BODY | {"logprobs": True}) as response:
        bare = (await response.json())["choices"][0]["logprobs"]["content"]
    assert [token["top_logprobs"] for token in bare] == [[]] * 3


async def test_prompt_log_probabilities_and_token_ids(
    http: aiohttp.ClientSession, agent: StubAgent
) -> None:
    body = BODY | {"prompt_logprobs": 1, "return_token_ids": True}
    async with http.post("/v1/chat/completions", json=body) as response:
        answer = await response.json()
    assert answer["choices"][0]["token_ids"] == [1, 2, 3]
    assert answer["prompt_token_ids"] == [100, 101, 102], "what the template gave"
    first, second, third = answer["prompt_logprobs"]
    assert first is None
    assert second == {
        "1101": {"logprob": -0.25, "rank": 1, "decoded_token": "un!"},
        "101": {"logprob": -0.5, "rank": None, "decoded_token": "un"},
    }
    assert set(third) == {"1102", "102"}


async def test_many_streams_at_once(client: openai.AsyncOpenAI, agent: StubAgent) -> None:
    async def ask() -> str:
        stream = await client.chat.completions.create(**BODY, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert await asyncio.gather(*(ask() for _ in range(64))) == ["one two three"] * 64


async def test_a_stream_tells_the_prompts_ids_once(
    http: aiohttp.ClientSession, agent: StubAgent
) -> None:
    body = BODY | {"stream": True, "return_token_ids": True}
    async with http.post("/v1/chat/completions", json=body) as response:
        lines = [line[6:] async for line in response.content if line.startswith(b"data: {")]
    chunks = [msgspec.json.decode(line) for line in lines]
    assert chunks[0]["prompt_token_ids"] == [100, 101, 102]
    assert not any("prompt_token_ids" in chunk for chunk in chunks[1:])
