"""From a server's pieces to the events of our stream: numbers, usage and timings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from lite_llm.backends.interface import Piece
from lite_llm.backends.measures import Measures
from lite_llm.contracts.errors import AgentLost
from lite_llm.proto.v1 import generate_pb2 as wire

_ENDS = {wire.FINISH_REASON_STOP: "stop", wire.FINISH_REASON_LENGTH: "length"}


class _Sequence:
    """What is known of one sequence so far."""

    def __init__(self) -> None:
        self.usage = wire.Usage()
        self.num_named = 0
        self.reason: wire.FinishReason.ValueType | None = None
        self.last_told = 0.0

    def learn(self, piece: Piece) -> None:
        self.num_named += len(piece.token_ids)
        if piece.prompt_tokens is not None:
            self.usage.prompt_tokens = piece.prompt_tokens
        if piece.cached_tokens is not None:
            self.usage.cached_prompt_tokens = piece.cached_tokens
        told = piece.completion_tokens or 0
        self.usage.completion_tokens = max(told, self.num_named)
        self.reason = self.reason if piece.reason is None else piece.reason


class Answer:
    """One stream of events."""

    def __init__(
        self,
        start: wire.GenerateStart,
        measures: Measures,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._request_id = start.request_id
        self._sequences = [_Sequence() for _ in range(start.sampling.n or 1)]
        # 1: a client that has lost its stream knows the start, and nothing that follows.
        self._sequence = start.resume.next_sequence
        self._measures = measures
        self._clock = clock
        self._arrived = clock()
        self._timings = wire.Timings()
        self._end = "abort"

    def events(self, index: int, piece: Piece) -> Iterator[wire.GenerateEvent]:
        """What a client is told of ``piece`` of sequence ``index``."""
        sequence = self._sequences[index]
        sequence.learn(piece)
        if self._sequence == 0:
            tokens = sequence.usage.prompt_tokens
            started = wire.GenerateStarted(request_id=self._request_id, prompt_tokens=tokens)
            yield self._numbered(wire.GenerateEvent(started=started))
        if piece.text or piece.token_ids or piece.logprobs:
            self._clock_token(sequence)
            chunk = wire.TokenChunk(
                index=index, token_ids=piece.token_ids, text=piece.text, logprobs=piece.logprobs
            )
            yield self._numbered(wire.GenerateEvent(tokens=chunk))

    def finished(self, index: int) -> wire.GenerateEvent:
        """The server has said all of sequence ``index``; ``AgentLost`` if it left out the end."""
        reason = self._sequences[index].reason
        if reason is None:
            raise AgentLost("the server broke off its answer", where=self._request_id)
        self._end = _ENDS[reason]
        return self._finished(index, reason)

    def cancelled(self) -> wire.GenerateEvent:
        """The last event of a stream that the client withdrew."""
        return self._finished(0, wire.FINISH_REASON_CANCELLED)

    def over(self, error: BaseException | None) -> None:
        """Nothing follows, for whatever reason; counts what was."""
        self._timings.total_seconds = self._clock() - self._arrived
        usage = wire.Usage(
            prompt_tokens=self._sequences[0].usage.prompt_tokens,
            completion_tokens=sum(each.usage.completion_tokens for each in self._sequences),
        )
        end = "error" if isinstance(error, Exception) else self._end
        self._measures.ended(end, usage, self._timings)

    def _clock_token(self, sequence: _Sequence) -> None:
        now = self._clock()
        if sequence.last_told:
            self._measures.token_after(now - sequence.last_told)
        sequence.last_told = now
        if not self._timings.first_token_seconds:
            # A server tells nothing of its queue: all before the first token counts as reading.
            self._timings.first_token_seconds = now - self._arrived
            self._timings.prefill_seconds = self._timings.first_token_seconds

    def _finished(self, index: int, reason: wire.FinishReason.ValueType) -> wire.GenerateEvent:
        self._timings.total_seconds = self._clock() - self._arrived
        finished = wire.GenerateFinished(
            index=index, reason=reason, usage=self._sequences[index].usage, timings=self._timings
        )
        return self._numbered(wire.GenerateEvent(finished=finished))

    def _numbered(self, event: wire.GenerateEvent) -> wire.GenerateEvent:
        event.sequence = self._sequence
        self._sequence += 1
        return event
