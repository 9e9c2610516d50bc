"""When an answer ends: stop strings, stop tokens, and the limit on its length."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lite_llm.engine.tokens import Detokenizer, Tokenizer


class FinishReason(StrEnum):
    """Why a generation ended, in OpenAI's words."""

    STOP = "stop"
    """The model ended it, or a stop string or token did."""
    LENGTH = "length"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What ends an answer."""

    max_tokens: int
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""
    stop_tokens: frozenset[int] = frozenset()
    """The end-of-sequence tokens among them; the token counts, its text does not appear."""
    min_tokens: int = 0
    """Stop tokens have no chance before so many, and stop strings in their text end nothing."""
    include_stop: bool = False
    """The text ends with the stop string instead of before it."""


class StopGate:
    """Holds back text that may be the beginning of a stop string."""

    def __init__(self, stop: Sequence[str], *, include: bool = False) -> None:
        """``include``: what is given out ends with the stop string instead of before it."""
        self._stop = stop
        self._include = include
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """What may be given out now, and whether a stop string ended the text."""
        if not self._stop:
            return text, False
        self._held += text
        # The first to be complete counts, so that it matters not how the text was cut into tokens.
        spans = [(at + len(stop), at) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if spans:
            end, begin = min(spans)
            given, self._held = self._held[: end if self._include else begin], ""
            return given, True
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        end = len(self._held) - keep
        given, self._held = self._held[:end], self._held[end:]
        return given, False

    def flush(self) -> str:
        """What was held back in vain."""
        held, self._held = self._held, ""
        return held


class Transcript:
    """The answer so far: its text as it may be told, and whether it is over."""

    def __init__(self, tokenizer: Tokenizer, limits: Limits, prompt: Sequence[int] = ()) -> None:
        self._limits = limits
        self._detokenizer = Detokenizer(tokenizer, prompt)
        self._gate = StopGate(limits.stop, include=limits.include_stop)
        self.num_tokens = 0

    def accept(self, token: int) -> tuple[str, FinishReason | None]:
        """The text that ``token`` makes known, and why the answer ends with it, if it does."""
        self.num_tokens += 1
        if token in self._limits.stop_tokens:
            return self._rest(), FinishReason.STOP
        text, stopped = self._detokenizer.feed(token), False
        if self.num_tokens > self._limits.min_tokens:
            text, stopped = self._gate.feed(text)
        if stopped:
            return text, FinishReason.STOP
        if self.num_tokens >= self._limits.max_tokens:
            return text + self._rest(), FinishReason.LENGTH
        return text, None

    def _rest(self) -> str:
        rest = self._detokenizer.flush()
        if self.num_tokens <= self._limits.min_tokens:
            return rest
        text, stopped = self._gate.feed(rest)
        return text if stopped else text + self._gate.flush()


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)


def stop_tokens(
    end_of_sequence: Collection[int], extra: Collection[int], *, ignore_eos: bool
) -> frozenset[int]:
    """The tokens that end an answer."""
    return frozenset(extra) | (frozenset() if ignore_eos else frozenset(end_of_sequence))
