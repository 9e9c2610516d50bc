"""Requests while the engine works on them: which tokens are known, and which are computed."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import replace
from typing import Protocol

from lite_llm.engine.logprobs import Logprobs
from lite_llm.engine.philox import derived_seed
from lite_llm.engine.request import Finished, Request, Resumed, Step, Token
from lite_llm.engine.sampling import History
from lite_llm.engine.stopping import FinishReason, Transcript
from lite_llm.engine.tokens import Tokenizer
from lite_llm.kvcache import CachedSequence


class Outlet(Protocol):
    """Where a request's steps go."""

    @property
    def full(self) -> bool:
        """Whoever reads is far behind: the request pauses until this is false."""

    def put(self, step: Step) -> None:
        """Never blocks."""


class Sequence:
    """One of a request's answers. It is over when ``finish_reason`` is there."""

    def __init__(self, group: Group, index: int, tokenizer: Tokenizer, resumed: Resumed) -> None:
        request = group.request
        self.group = group
        self.index = index
        self.sampling = replace(request.sampling, seed=derived_seed(request.sampling.seed, index))
        self.tokens = list(request.prompt)
        """All that are known; the model's are at the end."""
        self.kv: CachedSequence | None = None
        """What is computed; None before it is admitted, and after it was set back."""
        self.admitted = 0
        """Its place among all that were ever admitted."""
        self.finish_reason: FinishReason | None = None
        self.transcript = Transcript(tokenizer, request.limits, request.prompt)
        self.history = History(self.sampling, request.prompt) if self.sampling.changes else None
        for token in resumed.tokens:
            self._extend(token)

    @property
    def priority(self) -> int:
        """Its request's."""
        return self.group.request.priority

    @property
    def tenant(self) -> str:
        """Its request's."""
        return self.group.request.tenant

    @property
    def arrived(self) -> tuple[int, int]:
        """Its request's number and its own within it."""
        return self.group.number, self.index

    @property
    def num_computed(self) -> int:
        """Tokens whose keys and values are there."""
        return 0 if self.kv is None else self.kv.num_computed

    @property
    def pending(self) -> int:
        """Tokens that are known and not computed; at least one while it is not over."""
        return len(self.tokens) - self.num_computed

    @property
    def banned(self) -> Many[int]:
        """Tokens that have no chance to be next."""
        limits = self.group.request.limits
        early = self.transcript.num_tokens < limits.min_tokens
        return sorted(limits.stop_tokens) if early else ()

    def next_tokens(self, count: int) -> list[int]:
        """Those that are computed next."""
        return self.tokens[self.num_computed : self.num_computed + count]

    def accept(self, token: int, logprobs: Logprobs | None) -> None:
        """``token`` was chosen: tell it, and the end if it is one."""
        text = self._extend(token)
        self.group.outlet.put(Token(self.index, token, text, logprobs))
        if self.finish_reason is not None:
            self.group.outlet.put(Finished(self.index, self.finish_reason))

    def release(self) -> None:
        """Give back its pages."""
        if self.kv is not None:
            self.kv.release()
            self.kv = None

    def _extend(self, token: int) -> str:
        text, self.finish_reason = self.transcript.accept(token)
        self.tokens.append(token)
        if self.history is not None:
            self.history.add(token)
        return text


class Group:
    """A request with its sequences."""

    def __init__(self, number: int, request: Request, tokenizer: Tokenizer, outlet: Outlet) -> None:
        self.number = number
        """Requests are numbered as they arrive."""
        self.request = request
        self.outlet = outlet
        self.is_started = False
        self.is_read = bool(request.resumed)
        """The prompt was computed once, and its log probabilities told."""
        self.prompt_logprobs: list[Logprobs] = []
        resumed = request.resumed or (Resumed(),) * request.n
        self.sequences = [
            Sequence(self, index, tokenizer, known) for index, known in enumerate(resumed)
        ]

    @property
    def salt(self) -> bytes:
        """Who may find what it computes; with other experts nobody may."""
        return self.request.tiers.salt + b"/" + self.request.tenant.encode()

    @property
    def live(self) -> list[Sequence]:
        """Sequences that are not over."""
        return [each for each in self.sequences if each.finish_reason is None]

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether the prompt's rows are to be told, and were not."""
        return self.request.prompt_logprobs is not None and not self.is_read
