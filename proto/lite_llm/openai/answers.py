"""From the events of agents to the pieces of one answer, whatever an endpoint makes of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Protocol

from msgspec import Struct, UnsetType
from msgspec.structs import replace

from lite_llm.contracts.errors import AgentLost, Internal
from lite_llm.openai.logprobs import Rated, rated
from lite_llm.openai.schema import Explanation, FinishReason, Usage
from lite_llm.openai.tool_calls import Call, Reader
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
    calls: Sequence[Call] = ()
    """Of tools, which its text was read for."""

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
            calls=list(chain.from_iterable(piece.calls for piece in pieces)),
        )


class Form(Protocol):
    """How an endpoint words one answer."""

    def opening(
        self, index: int, prompt: Sequence[Rated], prompt_ids: Sequence[int]
    ) -> Piece | None:
        """What a choice begins with before its first token; ``prompt`` as far as it was rated, and
        its ids if the agent told them."""

    def chunk(self, piece: Piece) -> bytes:
        """An event of a stream."""

    def usage_chunk(self, usage: Usage) -> bytes:
        """The last event of a stream, for those who ask."""

    def told_chunk(self, told: Explanation) -> bytes:
        """An event of a stream that tells how it came about."""

    def whole(self, choices: Sequence[Piece], usage: Usage, told: Explanation | UnsetType) -> bytes:
        """The answer at once."""


class Answer:
    """One client's answer: ``n`` choices to each of ``prompts``, numbered prompt by prompt."""

    def __init__(
        self,
        form: Form,
        *,
        prompts: int,
        n: int,
        rates_prompt: bool,
        is_echo_only: bool = False,
        tools: Collection[str] = (),
    ) -> None:
        """With ``rates_prompt``, choices open when the prompt is rated, else when work starts.
        With ``is_echo_only`` tokens are left out; of ``tools`` calls are read out of texts."""
        self.form = form
        self.told: Explanation | None = None
        """How the answer to the first prompt came about, once work has started."""
        self._readers = [Reader(tools) for _ in range(prompts * n)] if tools else []
        self._n = n
        self._opening_event = "prompt" if rates_prompt else "started"
        self._is_echo_only = is_echo_only
        self._usages = [generate_pb2.Usage() for _ in range(prompts)]
        self._unopened = set(range(prompts))
        self._open: set[int] = set()
        self._prompt_ids: dict[int, Sequence[int]] = {}

    @property
    def usage(self) -> Usage:
        """Of the choices that are finished."""
        return Usage.of(self._usages)

    def pieces(self, prompt: int, events: Iterable[GenerateEvent]) -> Iterator[Piece]:
        """What ``events``, of the stream for this prompt, add to the answer."""
        for event in events:
            kind = event.WhichOneof("event")
            if kind == "tokens":
                if not self._is_echo_only:
                    yield from self._read(self._tokens(prompt, event.tokens))
                continue
            if kind == "started":
                self.told = self.told or Explanation.of(event.started)
                self._prompt_ids[prompt] = event.started.prompt_ids.ids
            if kind == self._opening_event:
                yield from self._opened(prompt, rated(event.prompt.logprobs))
            elif kind == "finished":
                yield from self._read(self._finished(prompt, event.finished))

    def _opened(self, prompt: int, scores: Sequence[Rated]) -> Iterable[Piece]:
        if prompt not in self._unopened:
            raise _lie("begins twice")
        self._unopened.remove(prompt)
        indices = range(prompt * self._n, (prompt + 1) * self._n)
        self._open.update(indices)
        ids = self._prompt_ids.pop(prompt, ())
        pieces = (self.form.opening(index, scores, ids) for index in indices)
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

    def _read(self, piece: Piece) -> Iterator[Piece]:
        """Without the calls of tools in its text; what is said of tokens is never held back."""
        if not self._readers:
            yield piece
            return
        reader = self._readers[piece.index]
        ends = piece.finish_reason is not None
        said = list(reader.end() if ends else reader.feed(piece.text))
        text = "".join(part for part in said if isinstance(part, str))
        calls = [part for part in said if isinstance(part, Call)]
        if not ends:
            if text or calls or piece.rated or piece.token_ids:
                yield replace(piece, text=text, calls=calls)
            return
        if text or calls:
            yield Piece(piece.index, text, calls=calls)
        is_call = reader.num_calls and piece.finish_reason == "stop"
        yield replace(piece, finish_reason="tool_calls") if is_call else piece

    def _index(self, prompt: int, sequence: int) -> int:
        index = prompt * self._n + sequence
        if sequence >= self._n or index not in self._open:
            raise _lie(f"speaks of sequence {sequence}, which is not open")
        return index


def _lie(what: str) -> Internal:
    return Internal(f"the agent {what}", where="agent", remedy="report this with the agent's log")
