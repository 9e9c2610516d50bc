"""Reading that outlasts a store's bad moments: resumed where it was cut, given up in the end."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from lite_llm.contracts.errors import LiteLLMError, StoreUnavailable
from lite_llm.stores.buckets import FAULTS, first_line, refusal
from lite_llm.stores.retrying import Backoff
from lite_llm.stores.source import FileStatus

PIECE_BYTES: Final = 1 << 20
"""Handed over at a time: what a cut connection loses at most."""
SLOW_PIECE_BYTES: Final = 64 << 10
"""As above after a failure: a slow link brings this much in time."""


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """How patient to be with a store."""

    backoff: Backoff = field(default_factory=Backoff)
    stall_seconds: float = 20.0
    """Without a piece, after which the connection is given up."""


class PatientSource(ABC):
    """Files below an address; what fails for a moment is tried again."""

    def __init__(
        self,
        uri: str,
        settings: StoreSettings,
        *,
        retry_after: Callable[[str], Awaitable[float]] | None = None,
        revision: str = "",
        sha256: Mapping[str, str] | None = None,
    ) -> None:
        """``revision`` names content that never changes, such as a commit; ``sha256``: digests by
        file, as far as the source tells any."""
        self.uri = uri.rstrip("/")
        self.settings = settings
        self._retry_after = retry_after
        self._revision = revision
        self._sha256 = sha256 or {}

    async def identity(self, name: str) -> str:
        if self._revision:
            return f"{self.uri}/{name}@{self._revision}"
        return (await self.status(name)).identity

    async def status(self, name: str) -> FileStatus:
        num_bytes, version = await self._patiently(name, 0, lambda: self._head(name))
        stamp = f"{self.uri}/{name}:{num_bytes}:{version}"
        pinned = f"{self.uri}/{name}@{self._revision}" if self._revision else ""
        return FileStatus(num_bytes, pinned or stamp, self._sha256.get(name, ""))

    async def read(self, name: str, offset: int, target: memoryview) -> None:
        done, piece_bytes = 0, PIECE_BYTES

        async def stream() -> None:
            nonlocal done, piece_bytes
            pieces = self._pieces(name, offset + done, offset + len(target), piece_bytes)
            piece_bytes = SLOW_PIECE_BYTES
            async with aclosing(pieces):
                async for piece in pieces:
                    if done + len(piece) > len(target):
                        raise StoreUnavailable(
                            f"{self.uri}/{name} sent more than it was asked for",
                            where=f"{name} offset {offset + done}",
                        )
                    target[done : done + len(piece)] = piece
                    done += len(piece)
            if done < len(target):
                raise ConnectionError("the answer ended early")

        await self._patiently(name, offset, stream, lambda: done)

    @abstractmethod
    async def _head(self, name: str) -> tuple[int, str]:
        """The file's length [bytes], and what changes with its content."""

    @abstractmethod
    def _pieces(
        self, name: str, start: int, end: int, piece_bytes: int
    ) -> AsyncGenerator[bytes, None]:
        """The file from ``start`` to ``end``; may end early."""

    async def _patiently(
        self,
        name: str,
        offset: int,
        attempt: Callable[[], Awaitable[Any]],
        progress: Callable[[], int] = lambda: 0,
    ) -> Any:
        failures = 0
        while True:
            before = progress()
            try:
                return await attempt()
            except LiteLLMError:
                raise
            except FAULTS as error:
                if refused := refusal(f"{self.uri}/{name}", error):
                    raise refused from error
                failures = 1 if progress() > before else failures + 1
                wait = self.settings.backoff.delay(
                    failures, await self._asked_to_wait(name, str(error))
                )
                if wait is None:
                    raise StoreUnavailable(
                        f"{self.uri}/{name} can't be read: {first_line(error)}",
                        where=f"{name} offset {offset + progress()}",
                        remedy="look at the store, or name a mirror",
                    ) from error
            await asyncio.sleep(wait)

    async def _asked_to_wait(self, name: str, error: str) -> float:
        if self._retry_after is None or not ("429 Too Many" in error or "503 Service" in error):
            return 0.0
        return await self._retry_after(name)
