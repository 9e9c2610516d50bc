"""``/v1/completions`` as the real client of OpenAI sees it, over a real server."""

from __future__ import annotations

import asyncio

import aiohttp
import openai
import pytest

from lite_llm.orchestrator import Orchestrator
from lite_llm.testing.stub_agent import StubAgent

pytestmark = pytest.mark.usefixtures("model")


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
