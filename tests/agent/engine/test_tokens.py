"""Streamed text is the whole text, and never half a character."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models

from lite_llm.contracts.errors import Corrupt
from lite_llm.engine import Detokenizer, Model, Tokenizer
from lite_llm.engine.tokens import MOST_PENDING, REPLACEMENT

TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=30)


def streamed(tokenizer: Tokenizer, tokens: list[int], prompt: Sequence[int] = ()) -> list[str]:
    detokenizer = Detokenizer(tokenizer, prompt)
    return [*(detokenizer.feed(token) for token in tokens), detokenizer.flush()]


@given(text=TEXT | st.sampled_from(["🦊🦊", "é", "\u200d👩‍👩‍👧", "a\ufffdb", "\ufffd"]))
def test_text_comes_back_in_whole_characters(model: Model, text: str) -> None:
    tokens = list(model.tokenizer.encode(text))
    pieces = streamed(model.tokenizer, tokens)
    assert "".join(pieces) == text
    if REPLACEMENT not in text:
        assert not any(REPLACEMENT in piece for piece in pieces)


@given(tokens=st.lists(st.integers(0, 319), max_size=40))
def test_any_tokens_stream_to_what_they_decode_to(model: Model, tokens: list[int]) -> None:
    assert "".join(streamed(model.tokenizer, tokens)) == model.tokenizer.decode(tokens)


@given(text=TEXT | st.sampled_from(["the quick brown fox", "🦊🦊", "</s></s>"]))
def test_no_text_has_fewer_tokens_than_promised(model: Model, text: str) -> None:
    for tokenizer in (model.tokenizer, spaced_tokenizer()):
        assert 0 <= tokenizer.at_least(text) <= len(tokenizer.encode(text))


def test_a_character_appears_with_its_last_byte(model: Model) -> None:
    tokens = list(model.tokenizer.encode("🦊"))[1:]
    assert streamed(model.tokenizer, tokens) == ["", "", "", "🦊", ""]
    assert streamed(model.tokenizer, tokens[:2]) == ["", "", REPLACEMENT]


def test_special_tokens_have_no_text(model: Model) -> None:
    assert model.tokenizer.encode("a")[0] == 0
    assert "".join(streamed(model.tokenizer, [0, *model.tokenizer.encode("hi")[1:], 1])) == "hi"


def spaced_tokenizer() -> Tokenizer:
    """As older Llamas have it: a mark for each space, bytes as tokens, a first space not shown."""
    vocab = {"<unk>": 0, "▁the": 1, "▁dog": 2, "s": 3}
    vocab |= {f"<0x{byte:02X}>": 4 + byte for byte in range(256)}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    return Tokenizer(tokenizer)


def spelt(character: str) -> list[int]:
    return [4 + byte for byte in character.encode()]


WORDS_AND_SPELT = st.sampled_from([[0], [1], [2], [3], spelt("🦊"), spelt("é"), spelt(" ")])


@given(parts=st.lists(WORDS_AND_SPELT))
def test_spaces_between_words_survive(parts: list[list[int]]) -> None:
    tokenizer = spaced_tokenizer()
    tokens = [token for part in parts for token in part]
    assert "".join(streamed(tokenizer, tokens)) == tokenizer.decode(tokens)
    assert streamed(tokenizer, [1, 2, 3, 1]) == ["the", " dog", "s", " the", ""]


@pytest.mark.parametrize(
    ("prompt", "first"),
    [
        ([1], " dog"),
        ([2] * 9, " dog"),
        ([], "dog"),
        ([*spelt("🦊")], " dog"),
        ([1, *spelt("🦊")[:2]], "dog"),
    ],
)
def test_an_answer_continues_its_prompt(prompt: list[int], first: str) -> None:
    assert streamed(spaced_tokenizer(), [2, 3], prompt) == [first, "s", ""]


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff" * 64])
def test_a_broken_file_is_named(data: bytes) -> None:
    with pytest.raises(Corrupt, match=r"a/tokenizer\.json can't be read"):
        Tokenizer.parse(data, "a/tokenizer.json")


def test_a_training_limit_in_the_file_does_not_cut_prompts(checkpoint: Path) -> None:
    plain = (checkpoint / "tokenizer.json").read_bytes()
    library = tokenizers.Tokenizer.from_buffer(plain)
    library.enable_truncation(4)
    library.enable_padding(length=64)
    limited = Tokenizer.parse(library.to_str().encode(), "tokenizer.json")
    text = "nothing is lost"
    assert limited.encode(text) == Tokenizer.parse(plain, "tokenizer.json").encode(text)


def byte_level_tokenizer() -> Tokenizer:
    """As newer models have it, with tokens that end and begin within characters."""
    # Each byte as the printable character that stands for it; 🦊 is F0 9F A6 8A.
    table = byte_alphabet()
    pieces = [*(table[byte] for byte in range(256))]
    fox = [table[byte] for byte in "🦊".encode()]
    merged = [fox[0] + fox[1], fox[2] + fox[3], table[ord("a")] + fox[0], fox[3] + table[ord("b")]]
    merges = [(fox[0], fox[1]), (fox[2], fox[3]), (table[ord("a")], fox[0]), (fox[3], table[98])]
    vocab = {piece: number for number, piece in enumerate([*pieces, *merged])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.decoder = decoders.ByteLevel()
    return Tokenizer(tokenizer)


def byte_alphabet() -> dict[int, str]:
    """GPT-2's: printable bytes stand for themselves, the others for characters from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + number) for number, byte in enumerate(others)
    }


A_F0, F0_9F, A6_8A, X8A_B = 258, 256, 257, 259


@pytest.mark.parametrize(
    ("tokens", "pieces"),
    [
        ([F0_9F, A6_8A], ["", "🦊"]),
        ([A_F0, 0x9F, A6_8A], ["", "", "a🦊"]),
        ([A_F0, 0x9F, 0xA6, X8A_B], ["", "", "", "a🦊b"]),
        ([F0_9F, 0xA6, X8A_B, 0x63], ["", "", "🦊b", "c"]),
        ([F0_9F, A6_8A, F0_9F, A6_8A], ["", "🦊", "", "🦊"]),
    ],
)
def test_characters_split_over_tokens_in_any_way(tokens: list[int], pieces: list[str]) -> None:
    tokenizer = byte_level_tokenizer()
    assert streamed(tokenizer, tokens) == [*pieces, ""]


@given(tokens=st.lists(st.integers(0, 259) | st.sampled_from([F0_9F, A6_8A]), max_size=30))
def test_any_bytes_stream_to_what_they_decode_to(tokens: list[int]) -> None:
    tokenizer = byte_level_tokenizer()
    assert "".join(streamed(tokenizer, tokens)) == tokenizer.decode(tokens)


def test_what_is_no_text_is_not_decoded_over_and_over(model: Model) -> None:
    """Special tokens, and bytes that never become a character; a whole one still does."""
    for tokenizer, nothing, fox in (
        (model.tokenizer, 0, list(model.tokenizer.encode("🦊"))[1:]),
        (byte_level_tokenizer(), 0x9F, [0xF0, 0x9F, 0xA6, 0x8A]),
        (spaced_tokenizer(), spelt("🦊")[1], [1, *spelt("🦊")]),
    ):
        detokenizer, text, longest = Detokenizer(tokenizer), "", 0
        tokens = [*[nothing] * 50, *fox[:-1]]
        for token in tokens:
            text += detokenizer.feed(token)
            longest = max(longest, len(detokenizer._context + detokenizer._pending))
        assert longest <= 2 * MOST_PENDING
        text += detokenizer.feed(fox[-1]) + detokenizer.flush()
        assert text == tokenizer.decode([*tokens, fox[-1]])
        assert text.endswith("🦊")


def test_bytes_as_tokens_wait_for_the_last_of_a_character() -> None:
    tokens = [1, *spelt("🦊"), *spelt("é"), 2]
    pieces = ["the", "", "", "", "🦊", "", "é", " dog", ""]
    assert streamed(spaced_tokenizer(), tokens) == pieces


def test_a_bare_text_has_no_token_that_begins_it(model: Model) -> None:
    assert model.tokenizer.encode("hi") == (0, *model.tokenizer.encode("hi", bare=True))
    assert model.tokenizer.encode("<s>hi", bare=True) == model.tokenizer.encode("hi")
