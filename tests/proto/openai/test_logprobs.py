from __future__ import annotations

import math

import msgspec
import pytest

from lite_llm.openai.logprobs import LEAST, for_chat, for_completion, for_prompt, rated
from lite_llm.proto.v1.generate_pb2 import TokenLogprobs, TopLogprob


def token(logprob: float, *top: tuple[int, float, str]) -> TokenLogprobs:
    """Token 1, with these as the likeliest of its place."""
    likeliest = [
        TopLogprob(token_id=number, logprob=value, text=text) for number, value, text in top
    ]
    return TokenLogprobs(token_id=1, logprob=logprob, top=likeliest)


@pytest.mark.parametrize("value", [-math.inf, math.nan])
def test_what_json_has_no_number_for_is_the_least(value: float) -> None:
    tokens = rated([token(value, (2, value, "b"), (1, value, "a"))])
    chat = msgspec.to_builtins(for_chat(tokens, num_top=2))["content"][0]
    assert chat["logprob"] == LEAST
    assert [each["logprob"] for each in chat["top_logprobs"]] == [LEAST, LEAST]
    assert for_completion(tokens, num_top=1, offset=0).token_logprobs == [LEAST]
    assert b"null" not in msgspec.json.encode(for_prompt(tokens, num_top=2)[1])


def test_a_token_is_added_to_the_likeliest_and_not_twice() -> None:
    tokens = rated([token(-3, (2, -0.5, "b"), (3, -1, "c"), (1, -3, "a"))])
    columns = for_completion(tokens * 2, num_top=1, offset=10)
    assert columns.top_logprobs == [{"b": -0.5, "a": -3}] * 2
    assert columns.text_offset == [10, 11]
    prompt = for_prompt(tokens, num_top=3)[1]
    assert prompt is not None
    assert [(number, each.rank) for number, each in prompt.items()] == [
        ("2", 1),
        ("3", 2),
        ("1", 3),
    ]
    assert len(for_chat(tokens, num_top=1).content[0].top_logprobs) == 1


def test_a_token_whose_text_did_not_come_is_named_by_its_number() -> None:
    tokens = rated([token(-3, (2, -0.5, "b"))])
    assert for_completion(tokens, num_top=1, offset=0).tokens == ["token_id:1"]


def test_halves_of_characters_share_a_text_and_the_likelier_is_told() -> None:
    tokens = rated([token(-0.5, (1, -0.5, "\ufffd"), (2, -2, "\ufffd"))])
    assert for_completion(tokens, num_top=2, offset=0).top_logprobs == [{"\ufffd": -0.5}]
