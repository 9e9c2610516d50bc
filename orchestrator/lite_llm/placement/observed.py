"""A value that one task sets and others wait on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")
F = TypeVar("F")


class Observed(Generic[T]):
    """One writer, any number of waiting tasks. Who is slow sees the latest, not every value."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._changed = asyncio.Event()
        self._set_at = monotonic()

    @property
    def value(self) -> T:
        """What it is now."""
        return self._value

    @property
    def age_seconds(self) -> float:
        """Since it was last set."""
        return monotonic() - self._set_at

    def set(self, value: T) -> None:
        """Replace the value and wake everybody who waits."""
        self._value, self._set_at = value, monotonic()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def changes(self) -> AsyncGenerator[T]:
        """The value now, then the latest after every change; never ends by itself."""
        while True:
            changed = self._changed
            yield self._value
            await changed.wait()

    async def wait_changed(self, known: T) -> None:
        """Until it is another value than ``known``; at once if it is already."""
        while self._value is known:
            await self._changed.wait()

    async def wait_until(self, condition: Callable[[T], F | None]) -> F:
        """The first thing that ``condition`` finds in the value; None means: not yet.

        What ``condition`` raises ends the wait. Bound it with ``asyncio.timeout``.
        """
        while True:
            changed = self._changed
            if (found := condition(self._value)) is not None:
                return found
            await changed.wait()
