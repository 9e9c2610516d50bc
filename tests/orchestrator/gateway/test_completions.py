"""``/v1/completions`` as the real client of OpenAI sees it, over a real server."""

from __future__ import annotations

import asyncio

import aiohttp
import msgspec
import openai
import pytest

from lite_llm.openai.completions import echo
from lite_llm.openai.logprobs import Rated
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


async def test_choices_are_numbered_prompt_by_prompt(
    client: openai.AsyncOpenAI, agent: StubAgent
) -> None:
    answer = await client.completions.create(model="tiny", prompt=["a", "b"], n=2)
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (0, "one two three"),
        (1, "one#1 two#1 three#1"),
        (2, "one two three"),
        (3, "one#1 two#1 three#1"),
    ]
    assert answer.usage is not None
    # The prompts are read once each, however many continue them.
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 12)
    assert len({start.request_id for start in agent.generations}) == 2
    assert {start.request_id.rpartition("-")[0] for start in agent.generations} == {answer.id}


async def test_several_prompts_with_one_seed_are_answered_as_if_alone(
    client: openai.AsyncOpenAI, agent: StubAgent
) -> None:
    await client.completions.create(model="tiny", prompt=["a", "b"], seed=5)
    await client.completions.create(model="tiny", prompt=["a", "b"])
    seeds = [start.sampling.seed for start in agent.generations]
    assert seeds[:2] == [5, 5]
    assert seeds[2] != seeds[3]


async def test_echo_puts_the_prompt_before_every_choice(
    http: aiohttp.ClientSession, agent: StubAgent
) -> None:
    body = {"model": "tiny", "prompt": ["Say: ", "Count: "], "echo": True, "n": 2}
    async with http.post("/v1/completions", json=body) as response:
        choices = (await response.json())["choices"]
    assert [choice["text"] for choice in choices] == [
        "Say: one two three", "Say: one#1 two#1 three#1",
        "Count: one two three", "Count: one#1 two#1 three#1",
    ]  # fmt: skip


async def test_log_probabilities(http: aiohttp.ClientSession, agent: StubAgent) -> None:
    body = {"model": "tiny", "prompt": "x", "logprobs": 1}
    async with http.post("/v1/completions", json=body) as response:
        choice = (await response.json())["choices"][0]
    assert choice["logprobs"] == {
        "text_offset": [0, 3, 7],
        "token_logprobs": [-0.5] * 3,
        "tokens": ["one", " two", " three"],
        "top_logprobs": [{f"{word}!": -0.25, word: -0.5} for word in ("one", " two", " three")],
    }
    async with http.post("/v1/completions", json=body | {"logprobs": 0}) as response:
        choice = (await response.json())["choices"][0]
    assert choice["logprobs"]["top_logprobs"] == [{"one": -0.5}, {" two": -0.5}, {" three": -0.5}]


async def test_a_text_is_scored_without_continuing_it(
    http: aiohttp.ClientSession, agent: StubAgent
) -> None:
    body = {"model": "tiny", "prompt": "Count:", "echo": True, "logprobs": 0, "max_tokens": 0}
    async with http.post("/v1/completions", json=body) as response:
        answer = await response.json()
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("Count:", "length")
    assert choice["logprobs"] == {
        "text_offset": [0, 2, 4],
        "token_logprobs": [None, -0.5, -0.5],
        "tokens": ["Co", "un", "t:"],
        "top_logprobs": [None, {"un": -0.5}, {"t:": -0.5}],
    }
    assert answer["usage"]["completion_tokens"] == 0
    assert agent.generations[0].sampling.max_tokens == 1, "0 would mean without a limit"


async def test_token_ids_are_scored_and_told(http: aiohttp.ClientSession, agent: StubAgent) -> None:
    body = {
        "model": "tiny", "prompt": [[7, 8, 9], [4, 5]], "echo": True, "logprobs": 1,
        "max_tokens": 3, "prompt_logprobs": 2, "return_token_ids": True,
    }  # fmt: skip
    async with http.post("/v1/completions", json=body) as response:
        first, second = (await response.json())["choices"]
    assert first["logprobs"]["tokens"] == ["", "<8>", "<9>", "one", " two", " three"]
    assert first["text"] == "<8><9>one two three"
    assert first["logprobs"]["text_offset"] == [0, 0, 3, 6, 9, 13]
    assert first["logprobs"]["token_logprobs"] == [None, *[-0.5] * 5]
    assert first["logprobs"]["top_logprobs"][1] == {"<8>!": -0.25, "<8>": -0.5}
    assert first["token_ids"] == [1, 2, 3]
    assert first["prompt_token_ids"] == [7, 8, 9]
    assert second["prompt_token_ids"] == [4, 5]
    assert second["prompt_logprobs"] == [
        None,
        {
            "1005": {"logprob": -0.25, "rank": 1, "decoded_token": "<5>!"},
            "5": {"logprob": -0.5, "rank": 2, "decoded_token": "<5>"},
        },
    ]
    assert {start.sampling.prompt_logprobs for start in agent.generations} == {2}


async def test_a_stream_tells_a_prompts_token_ids_once(
    http: aiohttp.ClientSession, agent: StubAgent
) -> None:
    body = {"model": "tiny", "prompt": [7, 8], "stream": True, "return_token_ids": True}
    async with http.post("/v1/completions", json=body) as response:
        events = (await response.text()).split("\n\n")[:-2]
    choices = [msgspec.json.decode(event[6:])["choices"][0] for event in events]
    assert [choice.get("prompt_token_ids") for choice in choices] == [[7, 8], *[None] * 4]
    assert [choice["token_ids"] for choice in choices] == [[], [1], [2], [3], []]


@pytest.mark.parametrize(
    ("parts", "begin"), [(("u", "nt"), "Co"), (("o", "nt"), ""), ((), "Count")]
)
def test_an_echo_s_first_token_is_what_the_others_leave(parts: tuple[str, ...], begin: str) -> None:
    rated = [Rated(7, part, -1.0) for part in parts]
    text, (first, *others) = echo("Count", rated)
    assert (text, first.text, first.logprob) == ("Count", begin, None)
    assert others == rated
