"""Models that would not load: left alone for a while, with the reason told to all who ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from lite_llm.contracts import LiteLLMError, ModelRef

FIRST_SECONDS = 1.0  # what was a passing trouble is over by then
MAX_SECONDS = 60.0  # a person who repairs the model does not wait longer than that


@dataclass
class _Setback:
    error: LiteLLMError
    generation: int
    until: float
    seconds: float


class Setbacks:
    """By model: after a failed load the next one waits, twice as long each time."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._setbacks: dict[ModelRef, _Setback] = {}

    def failed(self, model: ModelRef, generation: int, error: LiteLLMError) -> None:
        """A load failed, of the spec of this generation."""
        before = self._setbacks.get(model)
        seconds = min(before.seconds * 2, MAX_SECONDS) if before else FIRST_SECONDS
        self._setbacks[model] = _Setback(error, generation, self._clock() + seconds, seconds)

    def succeeded(self, model: ModelRef) -> None:
        """It loads."""
        self._setbacks.pop(model, None)

    def check(self, model: ModelRef, generation: int) -> None:
        """Raise what the last load failed with while it is too early for the next one.

        Another generation of the spec is another model: it is tried at once.
        """
        setback = self._setbacks.get(model)
        if setback is None:
            return
        if setback.generation != generation:
            del self._setbacks[model]
            return
        if (left := setback.until - self._clock()) > 0:
            error = setback.error
            raise type(error)(
                error.message, where=error.where, remedy=error.remedy, retry_after=left
            )
