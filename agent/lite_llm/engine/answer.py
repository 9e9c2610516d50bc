"""From the steps of a generation to the events of its stream: numbers, usage and timings."""

from __future__ import annotations

import time
from collections.abc import Callable

from lite_llm.engine.generation import Finished, Prefilled, Step, Token
from lite_llm.engine.stopping import FinishReason
from lite_llm.proto.v1 import generate_pb2 as wire

_REASONS = {
    FinishReason.STOP: wire.FINISH_REASON_STOP,
    FinishReason.LENGTH: wire.FINISH_REASON_LENGTH,
}


class Answer:
    """One stream of events. A resumed one goes on with the numbers of the one interrupted."""

    def __init__(
        self,
        start: wire.GenerateStart,
        *,
        num_prompt_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._request_id = start.request_id
        self._num_prompt_tokens = num_prompt_tokens
        self._num_tokens = len(start.resume.token_ids.ids)
        self._sequence = start.resume.next_sequence
        self._clock = clock
        self._arrived = self._began = clock()
        self._timings = wire.Timings()

    def event(self, step: Step) -> wire.GenerateEvent | None:
        """What a client is told of ``step``."""
        match step:
            case Prefilled(num_tokens=0):
                self._began = self._clock()
                self._timings.queue_seconds = self._began - self._arrived
                # The first event of a stream; the client of a resumed one had it long ago.
                return self._started() if self._sequence == 0 else None
            case Prefilled():
                self._timings.prefill_seconds = self._clock() - self._began
                return None
            case Token(token, text):
                return self._token(token, text)
            case Finished(reason):
                return self._finished(_REASONS[reason])

    def cancelled(self) -> wire.GenerateEvent:
        """The last event of a stream that the client withdrew."""
        return self._finished(wire.FINISH_REASON_CANCELLED)

    def _started(self) -> wire.GenerateEvent:
        started = wire.GenerateStarted(
            request_id=self._request_id, prompt_tokens=self._num_prompt_tokens
        )
        return self._numbered(wire.GenerateEvent(started=started))

    def _token(self, token: int, text: str) -> wire.GenerateEvent:
        self._num_tokens += 1
        if not self._timings.first_token_seconds:
            self._timings.first_token_seconds = self._clock() - self._arrived
        return self._numbered(
            wire.GenerateEvent(tokens=wire.TokenChunk(token_ids=[token], text=text))
        )

    def _finished(self, reason: wire.FinishReason.ValueType) -> wire.GenerateEvent:
        self._timings.total_seconds = self._clock() - self._arrived
        usage = wire.Usage(
            prompt_tokens=self._num_prompt_tokens, completion_tokens=self._num_tokens
        )
        finished = wire.GenerateFinished(reason=reason, usage=usage, timings=self._timings)
        return self._numbered(wire.GenerateEvent(finished=finished))

    def _numbered(self, event: wire.GenerateEvent) -> wire.GenerateEvent:
        event.sequence = self._sequence
        self._sequence += 1
        return event
