"""One answer: its steps, its end, and its continuation after an interruption."""

from itertools import islice
from typing import Any

import pytest

from lite_llm.engine import (
    Finished,
    FinishReason,
    Limits,
    Model,
    Prefilled,
    Request,
    Sampling,
    Token,
    generate,
)
from lite_llm.engine.generation import PREFILL_TOKENS

DRAWN = Sampling(temperature=1.2, top_p=0.95, seed=42)


def request(model: Model, text: str = "the same", **fields: Any) -> Request:
    defaults: dict[str, Any] = {"sampling": DRAWN, "limits": Limits(max_tokens=24)}
    return Request(prompt=model.tokenizer.encode(text), **(defaults | fields))


def tokens_of(model: Model, request: Request) -> list[Token]:
    return [step for step in generate(model, request) if isinstance(step, Token)]


def test_the_order_of_steps(model: Model) -> None:
    asked = request(model, limits=Limits(max_tokens=2))
    begun, prefilled, first, second, last = generate(model, asked)
    assert (begun, prefilled) == (Prefilled(0), Prefilled(len(asked.prompt)))
    assert isinstance(first, Token)
    assert isinstance(second, Token)
    assert last == Finished(FinishReason.LENGTH)


def test_a_long_prompt_is_read_in_chunks(model: Model) -> None:
    config = model.llama.config
    assert config.context_tokens <= PREFILL_TOKENS  # so that several chunks need a longer prompt
    prompt = tuple(range(2, 302)) * 4
    asked = Request(prompt=prompt, sampling=Sampling(temperature=0), limits=Limits(max_tokens=1))
    reading = islice(generate(model, asked), 4)
    assert [step.num_tokens for step in reading if isinstance(step, Prefilled)] == [
        0,
        PREFILL_TOKENS,
        2 * PREFILL_TOKENS,
        len(prompt),
    ]


def test_the_same_request_gives_the_same_tokens(model: Model) -> None:
    tokens = tokens_of(model, request(model))
    assert tokens_of(model, request(model)) == tokens
    other = Sampling(temperature=1.2, top_p=0.95, seed=43)
    assert tokens_of(model, request(model, sampling=other)) != tokens


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), DRAWN])
def test_a_resumed_answer_goes_on_as_if_nothing_had_happened(
    model: Model, sampling: Sampling
) -> None:
    whole = tokens_of(model, request(model, sampling=sampling))
    for cut in range(len(whole)):
        resume = tuple(token.id for token in whole[:cut])
        assert tokens_of(model, request(model, sampling=sampling, resume=resume)) == whole[cut:]


def test_a_resumed_answer_that_was_over_ends_at_once(model: Model) -> None:
    whole = tokens_of(model, request(model))
    resumed = generate(model, request(model, resume=tuple(token.id for token in whole)))
    assert [step for step in resumed if not isinstance(step, Prefilled)] == [
        Finished(FinishReason.LENGTH)
    ]


def test_a_stop_string_that_began_before_the_interruption(model: Model) -> None:
    whole = tokens_of(model, request(model, sampling=Sampling(temperature=0)))
    text = "".join(token.text for token in whole)
    limits = Limits(max_tokens=24, stop=(text[4:9],))
    undisturbed = tokens_of(model, request(model, sampling=Sampling(temperature=0), limits=limits))
    assert "".join(token.text for token in undisturbed) == text[: text.index(text[4:9])]
    for cut in range(len(undisturbed)):
        resume = tuple(token.id for token in undisturbed[:cut])
        again = request(model, sampling=Sampling(temperature=0), limits=limits, resume=resume)
        assert tokens_of(model, again) == undisturbed[cut:]


def test_the_text_is_what_the_tokens_decode_to(model: Model) -> None:
    tokens = tokens_of(model, request(model))
    text = "".join(token.text for token in tokens)
    assert text == model.tokenizer.decode([token.id for token in tokens])
