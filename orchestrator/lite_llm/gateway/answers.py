"""From the events of agents to the pieces of one answer, whatever an endpoint makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Protocol

from msgspec import Struct

from lite_llm.contracts.errors import AgentLost, Internal
from lite_llm.gateway.logprobs import Rated, rated
from lite_llm.gateway.schema import FinishReason, Usage
from lite_llm.proto.v1 import generate_pb2
from lite_llm.proto.v1.generate_pb2 import GenerateEvent, GenerateFinished, TokenChunk

_FINISH: dict[int, FinishReason] = {
    generate_pb2.FINISH_REASON_STOP: "stop",
    generate_pb2.FINISH_REASON_LENGTH: "length",
}


class Piece(Struct, frozen=True):
    """Of one choice: its opening, new tokens, or its end."""

    index: int
    text: str = ""
    token_ids: Sequence[int] = ()
    rated: Sequence[Rated] = ()
    finish_reason: FinishReason | None = None
    opens: bool = False

    @classmethod
    def joined(cls, index: int, pieces: Sequence[Piece]) -> Piece:
        """All pieces of one choice as one."""
        return cls(
            index=index,
            text="".join(piece.text for piece in pieces),
            token_ids=list(chain.from_iterable(piece.token_ids for piece in pieces)),
            rated=list(chain.from_iterable(piece.rated for piece in pieces)),
            finish_reason=pieces[-1].finish_reason if pieces else None,
            opens=True,
        )


class Form(Protocol):
    """How an endpoint words one answer."""

    def opening(self, index: int, prompt: Sequence[Rated]) -> Piece | None:
        """What a choice begins with before its first token; ``prompt`` as far as it was rated."""

    def chunk(self, piece: Piece) -> bytes:
        """An event of a stream."""

    def usage_chunk(self, usage: Usage) -> bytes:
        """The last event of a stream, for those who ask."""

    def whole(self, choices: Sequence[Piece], usage: Usage) -> bytes:
        """The answer at once."""


class Answer:
    """One client's answer: ``n`` choices to each of ``prompts``, numbered prompt by prompt."""

    def __init__(
        self, form: Form, *, prompts: int, n: int, rates_prompt: bool, is_echo_only: bool
    ) -> None:
        """With ``rates_prompt``, choices open when the prompt is rated, else when work starts.
        With ``is_echo_only`` tokens are left out."""
        self.form = form
        self._n = n
        self._opening_event = "prompt" if rates_prompt else "started"
        self._is_echo_only = is_echo_only
        self._usages = [generate_pb2.Usage() for _ in range(prompts)]
        self._unopened = set(range(prompts))
        self._open: set[int] = set()

    @property
    def usage(self) -> Usage:
        """Of the choices that are finished."""
        return Usage.of(self._usages)

    def pieces(self, prompt: int, event: GenerateEvent) -> Iterator[Piece]:
        """What ``event``, of the stream for this prompt, adds to the answer."""
        kind = event.WhichOneof("event")
        if kind == self._opening_event:
            yield from self._opened(prompt, rated(event.prompt.logprobs))
        elif kind == "tokens" and not self._is_echo_only:
            yield self._tokens(prompt, event.tokens)
        elif kind == "finished":
            yield self._finished(prompt, event.finished)

    def _opened(self, prompt: int, scores: Sequence[Rated]) -> Iterable[Piece]:
        if prompt not in self._unopened:
            raise _lie("begins twice")
        self._unopened.remove(prompt)
        indices = range(prompt * self._n, (prompt + 1) * self._n)
        self._open.update(indices)
        pieces = (self.form.opening(index, scores) for index in indices)
        return [piece for piece in pieces if piece is not None]

    def _tokens(self, prompt: int, tokens: TokenChunk) -> Piece:
        return Piece(
            self._index(prompt, tokens.index),
            tokens.text,
            tokens.token_ids,
            rated(tokens.logprobs) if tokens.logprobs else (),
        )

    def _finished(self, prompt: int, finished: GenerateFinished) -> Piece:
        index = self._index(prompt, finished.index)
        self._open.remove(index)
        usage = self._usages[prompt]
        # Every choice reports the prompt, which was read once.
        usage.prompt_tokens = finished.usage.prompt_tokens
        usage.cached_prompt_tokens = max(
            usage.cached_prompt_tokens, finished.usage.cached_prompt_tokens
        )
        reason = _FINISH.get(finished.reason)
        if reason is None:
            raise AgentLost("the agent gave the request up", where="agent", remedy="try again")
        if self._is_echo_only:
            return Piece(index, finish_reason="length")
        usage.completion_tokens += finished.usage.completion_tokens
        return Piece(index, finish_reason=reason)

    def _index(self, prompt: int, sequence: int) -> int:
        index = prompt * self._n + sequence
        if sequence >= self._n or index not in self._open:
            raise _lie(f"speaks of sequence {sequence}, which is not open")
        return index


def _lie(what: str) -> Internal:
    return Internal(f"the agent {what}", where="agent", remedy="report this with the agent's log")
