"""Text to tokens, and tokens back to text while they are still being made."""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers

from lite_llm.contracts.errors import Corrupt

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MOST_PENDING = 8  # tokens that wait for a character to be whole; it has four bytes at most
CONTEXT_TOKENS = 5  # of a prompt: the last may be special ones, which have no text


class Tokenizer:
    """Of one checkpoint: its ``tokenizer.json``."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        added = tokenizer.get_added_tokens_decoder()
        special = {token for token, each in added.items() if each.special}
        self._speaks = bytearray(max(vocabulary.values(), default=0) + 1)
        for token in vocabulary.values():
            self._speaks[token] = token not in special
        self._num_characters: dict[int, int] = {}
        self._longest_token_bytes = max((len(token.encode()) for token in vocabulary), default=1)

    @classmethod
    def parse(cls, data: bytes, where: str) -> Tokenizer:
        """From the contents of ``where``; :class:`Corrupt` if they are broken."""
        try:
            tokenizer = tokenizers.Tokenizer.from_buffer(data)
        except Exception as error:  # the library raises nothing narrower
            raise Corrupt(
                f"{where} can't be read: {error}", where=where, remedy="fetch the checkpoint again"
            ) from error
        # Some files carry their training's limits; a prompt is never cut or filled up here.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(tokenizer)

    def encode(self, text: str, *, bare: bool = False) -> tuple[int, ...]:
        """With the tokens that begin a text in this model; ``bare``: the text has them already."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=not bare).ids)

    def at_least(self, text: str) -> int:
        """A number of tokens below which ``text`` can't be, without reading it."""
        return -(-len(text.encode()) // self._longest_token_bytes)

    def is_silent(self, token: int) -> bool:
        """Whether :meth:`decode` leaves ``token`` out: it is special, or none of the vocabulary."""
        return token >= len(self._speaks) or not self._speaks[token]

    def num_characters(self, tokens: list[int]) -> int:
        """Of the text that they are; known after the first time where it is one token."""
        if len(tokens) != 1:
            return len(self.decode(tokens))
        (token,) = tokens
        if (known := self._num_characters.get(token)) is None:
            known = self._num_characters[token] = len(self.decode(tokens))
        return known

    def decode(self, tokens: list[int]) -> str:
        """Without special tokens; bytes that are no characters become U+FFFD."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text


class Detokenizer:
    """Turns tokens into text one by one, giving out complete characters only.

    All that it gives out, :meth:`flush` included, is what :meth:`Tokenizer.decode` makes of all
    tokens together, behind the ``prompt`` that they continue. One exception can't be helped: in
    vocabularies with byte fallback, a wrong byte takes with it the bytes just before it, which may
    have been given out already.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        # Tokens of the last text given out are decoded again with what follows them: in some
        # vocabularies the first token of a text looks different from the same token within it.
        self._context = list(prompt[-CONTEXT_TOKENS:])
        if tokenizer.decode(self._context).endswith(REPLACEMENT):
            self._context = []  # half a character is not told yet
        self._pending: list[int] = []
        self._num_held = 0  # characters at the context's end that were not given out

    def feed(self, token: int) -> str:
        """The text that is complete now; empty while a character is only half there."""
        if self._tokenizer.is_silent(token):
            return ""
        self._pending.append(token)
        text = self._fresh()
        is_half = text.endswith(REPLACEMENT)
        if (is_half or not text) and len(self._pending) < MOST_PENDING:
            return ""
        # What is no text at all would be decoded over and over. Only its last character can change.
        self._context, self._pending, self._num_held = self._pending, [], int(is_half)
        return text[: len(text) - self._num_held]

    def flush(self) -> str:
        """What is left at the end: U+FFFD in place of half a character."""
        text = self._fresh()
        self._context, self._pending, self._num_held = [], [], 0
        return text

    def _fresh(self) -> str:
        num_told = self._tokenizer.num_characters(self._context) - self._num_held
        return self._tokenizer.decode(self._context + self._pending)[num_told:]
