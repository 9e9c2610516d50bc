"""Answers end before a stop string, at a stop token, or at their limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.engine import FinishReason, Limits, Model
from lite_llm.engine.stopping import StopGate, Transcript


def through(stop: list[str], pieces: list[str], *, include: bool = False) -> tuple[list[str], bool]:
    gate, given_out = StopGate(stop, include=include), []
    for piece in pieces:
        text, stopped = gate.feed(piece)
        given_out.append(text)
        if stopped:
            return given_out, True
    return [*given_out, gate.flush()], False


def test_a_stop_string_over_several_pieces() -> None:
    assert through(["END"], ["so E", "N", "D of"]) == (["so ", "", ""], True)


def test_a_false_start_is_given_out_in_the_end() -> None:
    assert through(["END"], ["E", "EN", "x", "E"]) == (["", "E", "ENx", "", "E"], False)


@pytest.mark.parametrize("pieces", [["the lazy dog"], list("the lazy dog"), ["the laz", "y dog"]])
def test_the_first_to_be_complete_wins_however_the_text_is_cut(pieces: list[str]) -> None:
    given_out, stopped = through(["lazy", "dog", "z"], pieces)
    assert ("".join(given_out), stopped) == ("the la", True)
    given_out, stopped = through(["lazy", "dog", "z"], pieces, include=True)
    assert ("".join(given_out), stopped) == ("the laz", True)


def test_nothing_is_held_back_without_stop_strings() -> None:
    assert through([], ["a", "", "b"]) == (["a", "", "b", ""], False)


@given(
    stop=st.lists(st.text("ab", min_size=1, max_size=3), max_size=3),
    pieces=st.lists(st.text("abc", max_size=3), max_size=12),
)
def test_nothing_of_a_stop_string_leaks_and_nothing_else_is_lost(
    stop: list[str], pieces: list[str]
) -> None:
    given_out, stopped = through(stop, pieces)
    text = "".join(given_out)
    assert "".join(pieces).startswith(text)
    assert not any(each in text for each in stop)
    assert stopped == any(each in "".join(pieces) for each in stop)
    if not stopped:
        assert text == "".join(pieces)


def accepted(model: Model, limits: Limits, tokens: list[int]) -> tuple[str, FinishReason | None]:
    transcript, text = Transcript(model.tokenizer, limits), ""
    for token in tokens:
        piece, reason = transcript.accept(token)
        text += piece
        if reason:
            assert token == tokens[transcript.num_tokens - 1]
            return text, reason
    return text, None


def test_reasons(model: Model) -> None:
    tokens = list(model.tokenizer.encode("lazy dog"))[1:]
    many = len(tokens) + 5
    assert accepted(model, Limits(max_tokens=many), tokens) == ("lazy dog", None)
    at_limit = Limits(max_tokens=len(tokens))
    assert accepted(model, at_limit, tokens) == ("lazy dog", FinishReason.LENGTH)
    at_word = Limits(max_tokens=many, stop=("zy",))
    assert accepted(model, at_word, tokens) == ("la", FinishReason.STOP)
    at_token = Limits(max_tokens=many, stop_tokens=frozenset({1}))
    assert accepted(model, at_token, [*tokens, 1]) == ("lazy dog", FinishReason.STOP)


def test_stop_strings_wait_for_the_least_length(model: Model) -> None:
    tokens = list(model.tokenizer.encode("lazy lazy dog"))[1:]
    many, least = len(tokens) + 5, len(model.tokenizer.encode("lazy")[1:])
    limits = Limits(max_tokens=many, min_tokens=least, stop=("zy", "og"))
    assert accepted(model, limits, tokens) == ("lazy la", FinishReason.STOP)
    none = Limits(max_tokens=many, min_tokens=many, stop=("zy",))
    assert accepted(model, none, tokens) == ("lazy lazy dog", None)
    full = Limits(max_tokens=len(tokens), min_tokens=len(tokens), stop=("zy", "dog"))
    assert accepted(model, full, tokens) == ("lazy lazy dog", FinishReason.LENGTH)


def test_what_is_held_back_comes_with_the_last_token(model: Model) -> None:
    fox = list(model.tokenizer.encode("🦊"))[1:3]
    assert accepted(model, Limits(max_tokens=2), fox) == ("\ufffd", FinishReason.LENGTH)
    tokens = list(model.tokenizer.encode("dog"))[1:]
    waiting = Limits(max_tokens=len(tokens), stop=("dogs",))
    assert accepted(model, waiting, tokens) == ("dog", FinishReason.LENGTH)
