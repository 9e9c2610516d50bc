"""One answer to one prompt: prefill, then one token after another.

Legend: T tokens of one step, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lite_llm.engine.model import Model
from lite_llm.engine.sampling import Sampling, choose
from lite_llm.engine.stopping import FinishReason, Limits, Transcript

PREFILL_TOKENS = 512  # at once: between chunks a request can be cancelled


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be generated, already checked against the model."""

    prompt: tuple[int, ...]
    sampling: Sampling
    limits: Limits
    resume: tuple[int, ...] = ()
    """Tokens of the answer that the client has already."""


@dataclass(frozen=True)
class Prefilled:
    """This many tokens, of the prompt and of those resumed after, have been read; 0: it begins."""

    num_tokens: int


@dataclass(frozen=True)
class Token:
    """A new token and the text that became complete with it."""

    id: int
    text: str


@dataclass(frozen=True)
class Finished:
    """Nothing follows."""

    reason: FinishReason


Step = Prefilled | Token | Finished


def generate(model: Model, request: Request) -> Iterator[Step]:
    """The steps of one answer; whoever stops asking has cancelled it.

    Tokens resumed after are read one at a time, as they were made: in one chunk, sums could round
    otherwise, and a token drawn at random might differ from the one an undisturbed stream draws.
    """
    llama, transcript = model.llama, Transcript(model.tokenizer, request.limits)
    cache = llama.new_cache()
    hidden_TD = Tensor()
    yield Prefilled(0)
    for begin in range(0, len(request.prompt), PREFILL_TOKENS):
        chunk_T = torch.tensor(request.prompt[begin : begin + PREFILL_TOKENS])
        hidden_TD = llama.hidden(chunk_T, cache)
        yield Prefilled(cache.length)
    for token in request.resume:
        _, reason = transcript.accept(token)
        if reason:
            yield Finished(reason)
            return
        hidden_TD = llama.hidden(torch.tensor([token]), cache)
        yield Prefilled(cache.length)
    while True:
        logits_V = llama.logits(hidden_TD[-1:])[0]
        token = choose(logits_V.numpy(), request.sampling, position=cache.length)
        text, reason = transcript.accept(token)
        yield Token(token, text)
        if reason:
            yield Finished(reason)
            return
        hidden_TD = llama.hidden(torch.tensor([token]), cache)
