"""Every way of the real client to ask gives the same answer: sync, async, whole, streamed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from lite_llm.orchestrator import Orchestrator
from lite_llm.testing.stub_agent import StubAgent

pytestmark = pytest.mark.usefixtures("model")

MESSAGES = [{"role": "user", "content": "Count:"}]
STREAMED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
CHATS: list[dict[str, Any]] = [
    {},
    {"n": 3},
    {"logprobs": True},
    {"logprobs": True, "top_logprobs": 3, "n": 2},
    {"max_completion_tokens": 2, "temperature": 0, "seed": 3, "stop": "x"},
    {"extra_body": {"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": True}},
    {"extra_body": {"return_token_ids": True}},
]
COMPLETIONS: list[dict[str, Any]] = [
    {"prompt": "Count:"},
    {"prompt": "Count:", "n": 2, "best_of": 1},
    {"prompt": ["a", "b", "c"], "n": 2},
    {"prompt": [[1, 2], [3]], "logprobs": 0},
    {"prompt": "Count:", "logprobs": 3},
    {"prompt": ["Count:", "Another"], "echo": True, "n": 2},
    {"prompt": "Count:", "echo": True, "logprobs": 2},
    {"prompt": "Count:", "echo": True, "logprobs": 1, "max_tokens": 0},
    {"prompt": [1, 2], "logprobs": 1, "extra_body": {"return_token_ids": True}},
]


class Said(NamedTuple):
    """One choice, whichever way it came."""

    text: str
    finish_reason: str | None
    logprobs: Any
    token_ids: list[int]


Answer = tuple[dict[int, Said], int]
"""Choices by index, and the tokens of all."""


@contextmanager
def synchronous(orchestrator: Orchestrator) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"http://{orchestrator.http_address}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


def columns(logprobs: list[Any]) -> dict[str, list[Any]]:
    """The four columns of several chunks as one."""
    joined: dict[str, list[Any]] = {}
    for part in logprobs:
        for name, column in part.model_dump().items():
            joined.setdefault(name, []).extend(column)
    return joined


def of_completions(parts: Iterable[Completion]) -> Answer:
    parts = list(parts)
    choices = [choice for part in parts for choice in part.choices]
    answer = {}
    for index in sorted({choice.index for choice in choices}):
        mine = [choice for choice in choices if choice.index == index]
        answer[index] = Said(
            "".join(choice.text for choice in mine),
            mine[-1].finish_reason,
            columns([choice.logprobs for choice in mine if choice.logprobs]),
            [token for choice in mine for token in getattr(choice, "token_ids", None) or []],
        )
    assert parts[-1].usage is not None
    return answer, parts[-1].usage.total_tokens


def of_chat(whole: ChatCompletion) -> Answer:
    assert whole.usage is not None
    assert [choice.index for choice in whole.choices] == [*range(len(whole.choices))]
    return {
        choice.index: Said(
            choice.message.content or "",
            choice.finish_reason,
            [each.model_dump() for each in (choice.logprobs and choice.logprobs.content) or []],
            getattr(choice, "token_ids", None) or [],
        )
        for choice in whole.choices
    }, whole.usage.total_tokens


def of_chat_chunks(parts: Iterable[ChatCompletionChunk]) -> Answer:
    parts = list(parts)
    choices = [choice for part in parts for choice in part.choices]
    answer = {}
    for index in sorted({choice.index for choice in choices}):
        mine = [choice for choice in choices if choice.index == index]
        assert [choice.delta.role for choice in mine] == ["assistant"] + [None] * (len(mine) - 1)
        scores = [choice.logprobs.content or [] for choice in mine if choice.logprobs]
        answer[index] = Said(
            "".join(choice.delta.content or "" for choice in mine),
            mine[-1].finish_reason,
            [each.model_dump() for content in scores for each in content],
            [token for choice in mine for token in getattr(choice, "token_ids", None) or []],
        )
    assert parts[-1].usage is not None
    return answer, parts[-1].usage.total_tokens


@pytest.mark.parametrize("fields", CHATS, ids=str)
async def test_chat(
    client: openai.AsyncOpenAI, orchestrator: Orchestrator, agent: StubAgent, fields: dict[str, Any]
) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, **fields}
    whole = of_chat(await client.chat.completions.create(**asked))
    assert [said.finish_reason for said in whole[0].values()] == ["stop"] * fields.get("n", 1)
    assert whole[0][0].text == "one two three"

    stream = await client.chat.completions.create(**asked, **STREAMED)
    assert of_chat_chunks([chunk async for chunk in stream]) == whole
    usage: dict[str, Any] = {"stream_options": STREAMED["stream_options"]}
    async with client.chat.completions.stream(**asked, **usage) as events:
        deltas = [event.delta async for event in events if event.type == "content.delta"]
        rebuilt = await events.get_final_completion()
    assert len(deltas) == (1 + 3) * fields.get("n", 1)
    assert of_chat(rebuilt)[1] == whole[1]
    for index, said in of_chat(rebuilt)[0].items():
        # Rebuilders know OpenAI's fields only.
        assert said._replace(token_ids=[]) == whole[0][index]._replace(token_ids=[])

    def ask() -> Iterator[Answer]:
        with synchronous(orchestrator) as sync:
            yield of_chat(sync.chat.completions.create(**asked))
            yield of_chat_chunks(sync.chat.completions.create(**asked, **STREAMED))

    assert await asyncio.to_thread(lambda: list(ask())) == [whole, whole]


@pytest.mark.parametrize("fields", COMPLETIONS, ids=str)
async def test_completions(
    client: openai.AsyncOpenAI, orchestrator: Orchestrator, agent: StubAgent, fields: dict[str, Any]
) -> None:
    asked: dict[str, Any] = {"model": "tiny", **fields}
    answer = await client.completions.create(**asked)
    assert [choice.index for choice in answer.choices] == [*range(len(answer.choices))]
    whole = of_completions([answer])
    stream = await client.completions.create(**asked, **STREAMED)
    assert of_completions([chunk async for chunk in stream]) == whole

    def ask() -> Iterator[Answer]:
        with synchronous(orchestrator) as sync:
            yield of_completions([sync.completions.create(**asked)])
            yield of_completions(sync.completions.create(**asked, **STREAMED))

    assert await asyncio.to_thread(lambda: list(ask())) == [whole, whole]


Call = Callable[[Any], Any]
REFUSALS: list[tuple[str, Call, type[openai.APIStatusError], int, str]] = [
    ("no such model", lambda c: c.chat.completions.create(model="x", messages=MESSAGES),
     openai.NotFoundError, 404, "model"),
    ("no such model", lambda c: c.completions.create(model="x", prompt="x"),
     openai.NotFoundError, 404, "model"),
    ("no such model", lambda c: c.models.retrieve("x"), openai.NotFoundError, 404, "model"),
    ("no such model", lambda c: c.embeddings.create(model="x", input="x"),
     openai.NotFoundError, 404, "model"),
    ("no embeddings", lambda c: c.embeddings.create(model="tiny", input="x"),
     openai.BadRequestError, 400, "model"),
    ("no messages", lambda c: c.chat.completions.create(model="tiny", messages=[]),
     openai.BadRequestError, 400, "messages"),
    ("n = 0", lambda c: c.chat.completions.create(model="tiny", messages=MESSAGES, n=0),
     openai.BadRequestError, 400, "n"),
    ("cold", lambda c: c.completions.create(model="tiny", prompt="x", temperature=-1),
     openai.BadRequestError, 400, "temperature"),
    ("a tool is forced", lambda c: c.chat.completions.create(
        model="tiny", messages=MESSAGES, tool_choice="required"),
     openai.BadRequestError, 400, "tool_choice"),
    ("JSON is forced", lambda c: c.chat.completions.create(
        model="tiny", messages=MESSAGES, response_format={"type": "json_object"}),
     openai.BadRequestError, 400, "response_format"),
]  # fmt: skip


async def test_refusals(
    client: openai.AsyncOpenAI, orchestrator: Orchestrator, agent: StubAgent
) -> None:
    def check(error: openai.APIStatusError, status: int, param: str) -> None:
        assert (error.status_code, error.param) == (status, param)
        assert error.type == "invalid_request_error"
        assert error.body

    def ask_all() -> None:
        with synchronous(orchestrator) as sync:
            for _, ask, kind, status, param in REFUSALS:
                with pytest.raises(kind) as caught:
                    ask(sync)
                check(caught.value, status, param)

    for _, ask, kind, status, param in REFUSALS:
        with pytest.raises(kind) as caught:
            await ask(client)
        check(caught.value, status, param)
    await asyncio.to_thread(ask_all)
