"""Calls of tools, read out of what models write, however it is cut into tokens."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.openai.tool_calls import MAX_CHARACTERS, Call, Reader
from lite_llm.testing.stub_agent import StubAgent, saying

TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("weather", "time")
]
NAMES = frozenset(("weather", "time"))
CALL = '{"name": "weather", "arguments": {"city": "Köln"}}'
WEATHER, TIME = Call("weather", '{"city": "Köln"}'), Call("time", "{}")

READ: list[tuple[str, str, list[Call]]] = [
    ("just words", "just words", []),
    ("", "", []),
    (f"<tool_call>\n{CALL}\n</tool_call>", "", [WEATHER]),
    (f"Let me see. <tool_call>{CALL}</tool_call>", "Let me see. ", [WEATHER]),
    (
        f'<tool_call>{CALL}</tool_call>\n<tool_call>{{"name": "time"}}</tool_call>',
        "",
        [WEATHER, TIME],
    ),
    (f"<tool_call>\n{CALL}", "", [WEATHER]),
    ('{"name": "weather", "parameters": {"city": "Köln"}}', "", [WEATHER]),
    ('<|python_tag|>{"name": "time", "parameters": {}}', "", [TIME]),
    ('{"name": "time", "parameters": {}};\n{"name": "time"}', "", [TIME, TIME]),
    ('{"name": "weather", "arguments": "{\\"city\\": \\"Köln\\"}"}', "", [WEATHER]),
]
TEXTS = [
    '{"name": "unknown", "parameters": {}}',
    '{"answer": 42}',
    '{"name": "weather", "parameters": [1]}',
    "{" * 5000,
    "a < b and <tool_cal and </tool_call>",
    '<tool_call>{"name": "unknown", "arguments": {}}</tool_call> and more',
    "<tool_call>no JSON</tool_call>",
    "<tool_call>",
    "<",
    "  {",
    '{"name": ["time"]}',
    '<tool_call>{"name": {}}</tool_call>',
    "<tool_call>[1]</tool_call>",
    '{"name": "time", "arguments": {"half": "\\ud800"}}',
    '{"name": "time", "arguments": "\\ud800"}',
    '{"name": "time", "arguments": {"a": NaN}}',
    '{"name": "time", "arguments": {"a": 1e999}}',
    '{"name": "time", "arguments": null}',
    '{"name": "time"};\n{"name": "unknown"}',
]


def read(pieces: list[str]) -> tuple[str, list[Call]]:
    reader = Reader(NAMES)
    said = [part for piece in pieces for part in reader.feed(piece)] + list(reader.end())
    calls = [part for part in said if isinstance(part, Call)]
    assert reader.num_calls == len(calls)
    return "".join(part for part in said if not isinstance(part, Call)), calls


@pytest.mark.parametrize(("text", "rest", "calls"), READ)
def test_calls_are_found(text: str, rest: str, calls: list[Call]) -> None:
    assert read([text]) == (rest, calls)
    assert read(list(text)) == (rest, calls)


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert read([text]) == (text, [])
    assert read(list(text)) == (text, [])


@given(st.text(alphabet='<tool_call>/{}"|ab \n', max_size=60), st.data())
def test_nothing_is_lost_however_it_is_cut(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(pieces) == (text, [])


def test_what_is_certain_is_not_held_back() -> None:
    reader = Reader(NAMES)
    assert list(reader.feed("Hello")) == ["Hello"]
    assert list(reader.feed(" <tool")) == [" "]
    assert list(reader.feed("box>")) == ["<toolbox>"]


def test_an_endless_call_is_text() -> None:
    reader = Reader(NAMES)
    text = "{" + "x" * MAX_CHARACTERS
    assert list(reader.feed(text)) == [text]
    assert list(reader.end()) == []


async def ask(client: openai.AsyncOpenAI, **fields: Any) -> Any:
    return await client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "x"}], **fields
    )


@pytest.mark.usefixtures("model")
async def test_clients_get_calls_whole_and_streamed(
    client: openai.AsyncOpenAI, agent: StubAgent
) -> None:
    agent.script = lambda start: saying(
        start, ["Well", ". ", "<tool", f"_call>{CALL}", "</tool_call>"]
    )
    answer = await ask(client, tools=TOOLS, n=2)
    first, _second = answer.choices
    assert first.finish_reason == "tool_calls"
    assert first.message.content == "Well. "
    (call,) = first.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "weather", {"city": "Köln"},
    )  # fmt: skip
    stream = await ask(client, tools=TOOLS, stream=True, logprobs=True)
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    (streamed,) = [call for delta in deltas for call in delta.tool_calls or []]
    assert (streamed.index, streamed.function.name) == (0, "weather")
    assert "".join(delta.content or "" for delta in deltas) == "Well. "
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    rated = [chunk.choices[0].logprobs for chunk in chunks]
    assert sum(len(each.content) for each in rated if each) == 5, "of every token, once"
    plain = await ask(client, tools=TOOLS, tool_choice="none")
    assert plain.choices[0].message.tool_calls is None
    assert "<tool_call>" in plain.choices[0].message.content


@pytest.mark.usefixtures("model")
async def test_an_answer_that_only_calls_has_no_content(
    client: openai.AsyncOpenAI, agent: StubAgent
) -> None:
    agent.script = lambda start: saying(start, ['{"name": "time",', ' "parameters": {}}'])
    answer = await ask(client, tools=TOOLS)
    assert answer.choices[0].message.content is None
    assert answer.choices[0].message.tool_calls[0].function.arguments == "{}"
    assert answer.choices[0].finish_reason == "tool_calls"
