"""What we add to OpenAI's API: the way to the agent, and what is told back."""

from __future__ import annotations

import json

import aiohttp
import openai
import pytest

from lite_llm.proto.v1 import model_pb2
from lite_llm.testing.stub_agent import StubAgent

pytestmark = pytest.mark.usefixtures("model")


async def test_wishes_reach_the_agent(client: openai.AsyncOpenAI, agent: StubAgent) -> None:
    wishes = {"tier_set": "deep", "latency_budget_ms": 250, "priority": 0}
    await client.completions.create(model="tiny", prompt="x", extra_body={"lite_llm": wishes})
    await client.completions.create(
        model="tiny", prompt=["x", "y"], extra_body={"lite_llm": {"tier_set": ["base", "law"]}}
    )
    await client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "x"}], extra_body={"lite_llm": {}}
    )
    first, second, third, last = agent.generations
    assert first.tiers.mode == model_pb2.TIER_MODE_DEEP
    assert first.tiers.budget.first_token_ms == 250
    assert list(second.tiers.tiers) == list(third.tiers.tiers) == ["base", "law"]
    assert not last.HasField("tiers")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_who_asks_is_told_how_it_came_about(
    http: aiohttp.ClientSession, agent: StubAgent, path: str, stream: bool
) -> None:
    prompt = {"messages": [{"role": "user", "content": "x"}]} if "chat" in path else {"prompt": "x"}
    body = {"model": "tiny", "stream": stream, "lite_llm": {"explain": True}, **prompt}
    async with http.post(path, json=body) as response:
        text = await response.text()
        headers = response.headers
    assert headers["X-Lite-Llm-Agent"] == "stub"
    words = headers["X-Lite-Llm-Cold-Start"].split("; ")
    assert words[0] == "cold"
    assert {word.split("=")[0] for word in words[1:]} == {"held", "queue", "read"}
    events = [event.removeprefix("data: ") for event in text.split("\n\n")] if stream else [text]
    (told,) = [
        chunk["lite_llm"]
        for event in events
        if event.startswith("{") and "lite_llm" in (chunk := json.loads(event))
    ]
    assert told["agent"] == "stub"
    assert told["cold_start"]["held"] > 0
    assert told["candidates"][0]["agent"] == "stub"
    assert told["candidates"][0]["score"] == 0.0
    async with http.post(path, json=body | {"lite_llm": {}}) as response:
        assert "lite_llm" not in await response.text()
        assert "X-Lite-Llm-Cold-Start" not in response.headers
