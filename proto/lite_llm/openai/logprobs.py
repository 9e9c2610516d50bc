"""From what agents say about tokens to the forms that clients know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lite_llm.openai.schema.logprobs import (
    ChatLogprobs,
    ChatTokenLogprob,
    CompletionLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TopLogprob,
)
from lite_llm.proto.v1 import generate_pb2

LEAST = -9999.0  # what OpenAI says of the impossible, since JSON has no infinity


class Likely(NamedTuple):
    """One of the likeliest tokens of a place."""

    id: int
    text: str
    logprob: float


class Rated(NamedTuple):
    """A token and what the model thought of it."""

    id: int | None
    text: str
    logprob: float | None
    """None for the first of a prompt, which nothing precedes."""
    top: Sequence[Likely] = ()
    """The likeliest, in order."""

    def likeliest(self, count: int) -> list[Likely]:
        """The ``count`` likeliest; then the token itself, if it is not among them."""
        top = list(self.top[:count])
        if self.id is None or self.logprob is None or any(each.id == self.id for each in top):
            return top
        return [*top, Likely(self.id, self.text, self.logprob)]


def rated(tokens: Iterable[generate_pb2.TokenLogprobs]) -> list[Rated]:
    """What an agent sent, with every number fit for JSON."""
    return [_rated(token) for token in tokens]


def _rated(token: generate_pb2.TokenLogprobs) -> Rated:
    top = [Likely(likely.token_id, likely.text, _finite(likely.logprob)) for likely in token.top]
    # Its text comes with the likeliest, itself included; else a name for it, as vLLM writes it.
    texts = (likely.text for likely in top if likely.id == token.token_id)
    text = next(texts, f"token_id:{token.token_id}")
    return Rated(token.token_id, text, _finite(token.logprob), top)


def for_chat(tokens: Iterable[Rated], *, num_top: int) -> ChatLogprobs:
    """With the ``num_top`` likeliest of each place."""
    return ChatLogprobs(
        content=[
            ChatTokenLogprob(
                token=token.text,
                logprob=LEAST if token.logprob is None else token.logprob,
                bytes=list(token.text.encode()),
                top_logprobs=[
                    TopLogprob(
                        token=likely.text, logprob=likely.logprob, bytes=list(likely.text.encode())
                    )
                    for likely in token.top[:num_top]
                ],
            )
            for token in tokens
        ]
    )


def for_completion(tokens: Sequence[Rated], *, num_top: int, offset: int) -> CompletionLogprobs:
    """Of tokens that ``offset`` characters precede; each is added to its ``num_top`` likeliest."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return CompletionLogprobs(
        text_offset=offsets,
        token_logprobs=[token.logprob for token in tokens],
        tokens=[token.text for token in tokens],
        top_logprobs=[_by_text(token, num_top) for token in tokens],
    )


def _by_text(token: Rated, num_top: int) -> dict[str, float] | None:
    if token.logprob is None:
        return None
    by_text: dict[str, float] = {}
    for likely in token.likeliest(num_top):  # halves of characters share a text: the first is told
        by_text.setdefault(likely.text, likely.logprob)
    return by_text


def for_prompt(tokens: Iterable[Rated], *, num_top: int) -> PromptLogprobs:
    """Of the prompt's tokens but the first, with a None for that."""
    return [
        None,
        *(
            {
                str(likely.id): PromptLogprob(
                    logprob=likely.logprob,
                    rank=rank if rank <= num_top else None,
                    decoded_token=likely.text,
                )
                for rank, likely in enumerate(token.likeliest(num_top), start=1)
            }
            for token in tokens
        ),
    ]


def _finite(logprob: float) -> float:
    return max(LEAST, logprob)  # in this order: what is no number becomes LEAST too
