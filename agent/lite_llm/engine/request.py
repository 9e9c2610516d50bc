"""What is asked of the engine, and what it answers, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field

from lite_llm.contracts.errors import LiteLLMError
from lite_llm.engine.logprobs import Logprobs
from lite_llm.engine.sampling import Sampling
from lite_llm.engine.stopping import FinishReason, Limits
from lite_llm.engine.tier_grants import Grant


@dataclass(frozen=True)
class Resumed:
    """What the client has of one sequence already."""

    tokens: tuple[int, ...] = ()
    finished: bool = False
    """It knows the end, too."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be generated, already checked against the model."""

    prompt: tuple[int, ...]
    sampling: Sampling
    limits: Limits
    n: int = 1
    """Sequences; each draws numbers of its own."""
    logprobs: int | None = None
    """How many of the likeliest tokens are told with each; None: not even its own probability."""
    prompt_logprobs: int | None = None
    resumed: tuple[Resumed, ...] = ()
    """One a sequence, where an interrupted stream goes on."""
    tenant: str = ""
    priority: int = 0
    """Larger is sooner."""
    tiers: Grant = field(default_factory=Grant)
    """Whose experts may answer."""


@dataclass(frozen=True)
class Started:
    """The request has left the queue."""

    num_cached: int
    """Tokens of the prompt that were found computed."""


@dataclass(frozen=True)
class PromptRead:
    """The first token comes next."""

    logprobs: tuple[Logprobs, ...] = ()
    """Of the prompt's tokens but the first, where they were asked for."""


@dataclass(frozen=True)
class Token:
    """A new token of a sequence and the text that became complete with it."""

    index: int
    id: int
    text: str
    logprobs: Logprobs | None = None


@dataclass(frozen=True)
class Finished:
    """A sequence is over; the request is with its last one."""

    index: int
    reason: FinishReason


@dataclass(frozen=True)
class Failed:
    """The request is over, by a fault that it shares with no other."""

    error: LiteLLMError


Step = Started | PromptRead | Token | Finished | Failed
