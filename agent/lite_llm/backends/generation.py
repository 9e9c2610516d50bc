"""The sequences of one request, asked for and read side by side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, Final

from lite_llm.backends.interface import Backend, Call, Piece
from lite_llm.backends.upstream import Upstream
from lite_llm.contracts.errors import BackendFailed

AHEAD: Final = 16  # pieces that wait for a slow client before the server has to


@contextmanager
def understanding(backend: Backend) -> Iterator[None]:
    """What ``backend`` makes of its server's words is wrong only if they are: ``BackendFailed``."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BackendFailed(f"a message is not as {backend.name} sends them: {error!r}") from error


class Generation:
    """Reads one answer a call; what comes is told in the order of its arrival."""

    def __init__(self, backend: Backend, upstream: Upstream, calls: Sequence[Call]) -> None:
        self.is_cancelled = False
        self._backend = backend
        self._upstream = upstream
        self._calls = calls
        self._readers: list[asyncio.Task[None]] = []
        self._found: deque[tuple[int, Piece | Exception | None]] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Semaphore(AHEAD * len(calls))

    async def pieces(self) -> AsyncGenerator[tuple[int, Piece | None]]:
        """Number of the call and what it brought; None: nothing more comes of it.

        The first failure ends them all. So does :meth:`cancel`, without one.
        """
        self._readers = [
            asyncio.create_task(self._read(index, call)) for index, call in enumerate(self._calls)
        ]
        left = len(self._calls)
        try:
            while left and not self.is_cancelled:
                await self._news.wait()
                self._news.clear()
                while self._found and not self.is_cancelled:
                    index, found = self._found.popleft()
                    if isinstance(found, Exception):
                        raise found
                    self._room.release()
                    left -= found is None
                    yield index, found
        finally:
            for reader in self._readers:
                reader.cancel()  # hangs up, and so ends the server's work
            await asyncio.gather(*self._readers, return_exceptions=True)

    def cancel(self) -> None:
        """Withdraw it all. May be called again."""
        self.is_cancelled = True
        self._news.set()

    async def _read(self, index: int, call: Call) -> None:
        try:
            async with aclosing(self._upstream.stream(call)) as messages:
                async for message in messages:
                    for piece in self._understood(message):
                        await self._room.acquire()
                        self._tell(index, piece)
            await self._room.acquire()
            self._tell(index, None)
        except Exception as error:
            self._tell(index, error)

    def _understood(self, message: Mapping[str, Any]) -> list[Piece]:
        with understanding(self._backend):
            return list(self._backend.pieces(message))
        raise AssertionError  # misunderstandings never pass

    def _tell(self, index: int, found: Piece | Exception | None) -> None:
        self._found.append((index, found))
        self._news.set()
