"""What a client has of one answer, kept so that another agent can go on where one broke off."""

from __future__ import annotations

import time
from array import array

from lite_llm.contracts.errors import AgentLost, Internal
from lite_llm.proto.v1.generate_pb2 import (
    FINISH_REASON_CANCELLED,
    GenerateEvent,
    GenerateStart,
    ResumedSequence,
    TokenIds,
)


class Garbage(Internal):
    """An agent said what no agent should: another one may do better."""


class Transcript:
    """Of one generation, whichever agents it runs on; refuses what does not belong there."""

    def __init__(self, start: GenerateStart) -> None:
        """``start`` may itself resume a stream that began through another orchestrator."""
        self._start = start
        if not start.created_at:  # a replay must render the same prompt, whatever the time then
            start.created_at = int(time.time())
        n, resume = start.sampling.n or 1, start.resume
        known = resume.sequences or [ResumedSequence(token_ids=resume.token_ids)] * n
        self._tokens = [array("I", each.token_ids.ids) for each in known]
        self._finished = [each.finished for each in known]
        self._rates_prompt = start.sampling.HasField("prompt_logprobs")
        self._is_open = resume.next_sequence > (1 if self._rates_prompt else 0)
        self.tenant = start.tenant
        self.num_bytes = start.ByteSize()
        """Of the request."""
        self.next_sequence = resume.next_sequence
        """Of the agent's next event; progress of loads is not counted."""

    @property
    def has_begun(self) -> bool:
        """Whether any agent has said anything."""
        return self.next_sequence > 0

    @property
    def num_tokens(self) -> int:
        """Over all sequences."""
        return sum(map(len, self._tokens))

    @property
    def is_over(self) -> bool:
        """Every sequence has its end."""
        return all(self._finished)

    def accept(self, event: GenerateEvent, where: str) -> None:
        """Add the next event; :class:`Garbage` if it can't be that, and then nothing is added."""
        if event.sequence != self.next_sequence:
            raise _garbage(f"sent event {event.sequence} where {self.next_sequence} was due", where)
        match event.WhichOneof("event"):
            case "tokens":
                index = self._checked(event.tokens.index, where)
                self._tokens[index].extend(event.tokens.token_ids)
            case "finished":
                index = self._checked(event.finished.index, where)
                if event.finished.reason == FINISH_REASON_CANCELLED:
                    raise AgentLost("the agent gave the request up", where=where)
                self._finished[index] = True
            case "started" if self.next_sequence == 0:
                self._is_open = not self._rates_prompt
            case "started":
                raise _garbage("begins twice", where)
            case "prompt" if self._rates_prompt and self.next_sequence == 1:
                self._is_open = True
            case kind:
                raise _garbage(f"sent {kind or 'nothing'} as event {event.sequence}", where)
        self.next_sequence += 1

    def continuation(self) -> GenerateStart:
        """What asks an agent for all that is missing, and for nothing else."""
        if not self.has_begun:
            return self._start
        start = GenerateStart()
        start.CopyFrom(self._start)
        start.ClearField("resume")
        start.resume.next_sequence = self.next_sequence
        if self.next_sequence == 1:
            return start
        sequences = [
            ResumedSequence(token_ids=TokenIds(ids=tokens), finished=finished)
            for tokens, finished in zip(self._tokens, self._finished, strict=True)
        ]
        if len(sequences) == 1:
            start.resume.token_ids.CopyFrom(sequences[0].token_ids)
        else:
            start.resume.sequences.extend(sequences)
        return start

    def _checked(self, index: int, where: str) -> int:
        if not self._is_open or index >= len(self._finished) or self._finished[index]:
            raise _garbage(f"speaks of sequence {index}, which is not open", where)
        return index


def _garbage(what: str, where: str) -> Garbage:
    return Garbage(f"the agent {what}", where=where, remedy="report this with the agent's log")
