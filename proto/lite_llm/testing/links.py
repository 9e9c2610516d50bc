"""A TCP link that can be cut or made to swallow everything, to stand in for a bad network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

CHUNK_BYTES = 1 << 16


class Link:
    """Forwards connections to ``127.0.0.1:target_port`` from a port of its own."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._server: asyncio.Server | None = None

    @property
    def endpoint(self) -> str:
        """``host:port`` to connect to."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        self._refusing = True
        self.reset()

    def reset(self) -> None:
        """Reset every connection; new ones are welcome."""
        for writer in self._writers:
            writer.transport.abort()

    def blackhole(self) -> None:
        """Keep connections open and accept new ones, but deliver nothing."""
        self._flowing.clear()

    def restore(self) -> None:
        """Undo :meth:`cut` and :meth:`blackhole`; what was swallowed meanwhile is delivered."""
        self._refusing = False
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        self._writers.add(writer)
        try:
            if not self._refusing:
                await self._forward(reader, writer)
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._handlers.discard(handler)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            return
        self._writers.add(far_writer)
        pumps = {
            asyncio.create_task(self._pump(reader, far_writer)),
            asyncio.create_task(self._pump(far_reader, writer)),
        }
        self._pumps |= pumps
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            far_writer.transport.abort()
            self._writers.discard(far_writer)
            self._pumps -= pumps

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield
        finally:
            self._server.close()
            self.cut()
            for pump in tuple(self._pumps):
                pump.cancel()
            if handlers := tuple(self._handlers):
                await asyncio.wait(handlers)
            await self._server.wait_closed()


@asynccontextmanager
async def link_to(target_port: int) -> AsyncIterator[Link]:
    """A link while the block runs."""
    link = Link(target_port)
    async with link._open():
        yield link
