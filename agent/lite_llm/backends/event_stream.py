"""Server-sent events, as far as inference servers use them: the data of each event, in order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Final

from lite_llm.contracts.errors import BackendFailed

MAX_EVENT_BYTES: Final = 4 << 20  # a token with a hundred log probabilities takes some 10 KiB


class EventDecoder:
    """Bytes in, however they were cut; the text of each event's data out."""

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Raises :class:`BackendFailed` for an event that is too large or is no text."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in (line.removesuffix(b"\r") for line in lines):
            if line:
                self._field(line)
            elif self._data:
                yield self._event()
        if len(self._rest) + sum(map(len, self._data)) > self._max_bytes:
            raise BackendFailed(f"an event has more than {self._max_bytes} bytes")

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        # llama.cpp has sent errors as a field of their own; comments and other fields say nothing.
        if name in (b"data", b"error"):
            self._data.append(value.removeprefix(b" "))

    def _event(self) -> str:
        data, self._data = b"\n".join(self._data), []
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise BackendFailed(f"an event is no text: {error}") from error


async def events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[str]:
    """The data of each event in ``chunks``; what no empty line ends is not told."""
    decoder = EventDecoder()
    async for chunk in chunks:
        for event in decoder.feed(chunk):
            yield event
