from __future__ import annotations

import pytest

from lite_llm.proto.v1.generate_pb2 import (
    Chat,
    ChatMessage,
    GenerateEvent,
    GenerateStart,
    SamplingParameters,
    TokenIds,
)
from lite_llm.testing.stub_agent import WORDS, prompt_tokens, saying


async def events_of(start: GenerateStart) -> list[GenerateEvent]:
    return [event async for event in saying(start)]


@pytest.mark.parametrize("n", [0, 1, 3])
async def test_every_sequence_is_told_and_finished_in_one_count(n: int) -> None:
    events = await events_of(GenerateStart(text="x", sampling=SamplingParameters(n=n)))
    assert [event.sequence for event in events] == [*range(len(events))]
    for index in range(n or 1):
        words = [
            event.tokens.text
            for event in events
            if event.HasField("tokens") and event.tokens.index == index
        ]
        assert words == [f"{word}#{index}" if index else word for word in WORDS]
    finished = [event.finished.index for event in events if event.HasField("finished")]
    assert finished == [*range(n or 1)]


async def test_tokens_are_rated_if_asked() -> None:
    sampling = SamplingParameters(logprobs=0, prompt_logprobs=3)
    _, prompt, first, *_ = await events_of(GenerateStart(text="Count:", sampling=sampling))
    assert [rated.token_id for rated in prompt.prompt.logprobs] == [101, 102]
    assert [len(rated.top) for rated in prompt.prompt.logprobs] == [3, 3]
    assert [top.text for top in first.tokens.logprobs[0].top] == ["one"]
    bare = await events_of(GenerateStart(text="Count:"))
    assert not any(event.HasField("prompt") for event in bare)
    assert not any(event.tokens.logprobs for event in bare)


def test_a_prompt_s_tokens_make_its_text() -> None:
    chat = Chat(messages=[ChatMessage(content="Co"), ChatMessage(content="unt:")])
    for start in (GenerateStart(text="Count:"), GenerateStart(chat=chat)):
        assert "".join(text for _, text in prompt_tokens(start)) == "Count:"
    ids = GenerateStart(token_ids=TokenIds(ids=[4, 5]))
    assert prompt_tokens(ids) == [(4, "<4>"), (5, "<5>")]
