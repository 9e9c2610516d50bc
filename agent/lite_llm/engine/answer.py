"""From the steps of a request to the events of its stream: numbers, usage and timings."""

from __future__ import annotations

import time
from collections.abc import Callable

from lite_llm.engine.logprobs import Logprobs
from lite_llm.engine.measures import Measures
from lite_llm.engine.request import Finished, PromptRead, Request, Started, Step, Token
from lite_llm.engine.stopping import FinishReason
from lite_llm.engine.tokens import Tokenizer
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
        request: Request,
        tokenizer: Tokenizer,
        measures: Measures,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._request_id = start.request_id
        self._tells_prompt = start.return_prompt_ids
        self._request = request
        self._tokenizer = tokenizer
        self._measures = measures
        self._sequence = start.resume.next_sequence
        self._num_tokens = [len(each.tokens) for each in request.resumed] or [0] * request.n
        self._last_token = [0.0] * request.n
        self._cached = 0
        self._clock = clock
        self._arrived = self._began = clock()
        self._timings = wire.Timings()
        self._end = "abort"

    def event(self, step: Step) -> wire.GenerateEvent | None:
        """What a client is told of ``step``."""
        match step:
            case Started(num_cached):
                self._began, self._cached = self._clock(), num_cached
                self._timings.queue_seconds = self._began - self._arrived
                # The first event of a stream; the client of a resumed one had it long ago.
                return self._started() if self._sequence == 0 else None
            case PromptRead(logprobs):
                self._timings.prefill_seconds = self._clock() - self._began
                if self._request.prompt_logprobs is None:
                    return None
                told = wire.PromptLogprobs(logprobs=map(self._rated, logprobs))
                return self._numbered(wire.GenerateEvent(prompt=told))
            case Token():
                return self._token(step)
            case Finished(index, reason):
                self._end = str(reason)
                return self._finished(index, _REASONS[reason])
        return None

    def cancelled(self) -> wire.GenerateEvent:
        """The last event of a stream that the client withdrew."""
        return self._finished(0, wire.FINISH_REASON_CANCELLED)

    def over(self, error: BaseException | None) -> None:
        """Nothing follows, for whatever reason; counts what was."""
        self._timings.total_seconds = self._clock() - self._arrived
        usage = wire.Usage(
            prompt_tokens=len(self._request.prompt), completion_tokens=sum(self._num_tokens)
        )
        end = "error" if isinstance(error, Exception) else self._end
        self._measures.ended(end, usage, self._timings)

    def _started(self) -> wire.GenerateEvent:
        started = wire.GenerateStarted(
            request_id=self._request_id,
            prompt_tokens=len(self._request.prompt),
            tiers=self._request.tiers.names,
        )
        if self._tells_prompt:
            started.prompt_ids.ids.extend(self._request.prompt)
        return self._numbered(wire.GenerateEvent(started=started))

    def _token(self, token: Token) -> wire.GenerateEvent:
        now, last = self._clock(), self._last_token[token.index]
        self._last_token[token.index] = now
        self._num_tokens[token.index] += 1
        if last:
            self._measures.token_after(now - last)
        elif not self._timings.first_token_seconds:
            self._timings.first_token_seconds = now - self._arrived
        rated = [] if token.logprobs is None else [self._rated(token.logprobs)]
        chunk = wire.TokenChunk(
            index=token.index, token_ids=[token.id], text=token.text, logprobs=rated
        )
        return self._numbered(wire.GenerateEvent(tokens=chunk))

    def _rated(self, logprobs: Logprobs) -> wire.TokenLogprobs:
        top = dict(logprobs.top)
        # Itself is among them always: there its text is told.
        top.setdefault(logprobs.token, logprobs.logprob)
        return wire.TokenLogprobs(
            token_id=logprobs.token,
            logprob=logprobs.logprob,
            top=[
                wire.TopLogprob(token_id=token, logprob=value, text=self._tokenizer.decode([token]))
                for token, value in top.items()
            ],
        )

    def _finished(self, index: int, reason: wire.FinishReason.ValueType) -> wire.GenerateEvent:
        self._timings.total_seconds = self._clock() - self._arrived
        usage = wire.Usage(
            prompt_tokens=len(self._request.prompt),
            cached_prompt_tokens=self._cached,
            completion_tokens=self._num_tokens[index],
        )
        finished = wire.GenerateFinished(
            index=index, reason=reason, usage=usage, timings=self._timings
        )
        return self._numbered(wire.GenerateEvent(finished=finished))

    def _numbered(self, event: wire.GenerateEvent) -> wire.GenerateEvent:
        event.sequence = self._sequence
        self._sequence += 1
        return event
