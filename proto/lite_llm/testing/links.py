"""A TCP link that can be cut or made to swallow everything, to stand in for a bad network."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Coroutine
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
            _reset(writer)

    def blackhole(self) -> None:
        """Keep connections open and accept new ones, but deliver nothing."""
        self._flowing.clear()

    def restore(self) -> None:
        """Undo :meth:`cut` and :meth:`blackhole`; what was swallowed meanwhile is delivered."""
        self._refusing = False
        self._flowing.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            _reset(writer)
            return
        handler = asyncio.create_task(self._forward(reader, writer))
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with self._closing(writer):
            with suppress(OSError):  # nobody listens: the near side is closed as well
                far_reader, far_writer = await asyncio.open_connection(
                    "127.0.0.1", self._target_port
                )
                async with self._closing(far_writer):
                    await self._pump_until_end(
                        self._pump(reader, far_writer), self._pump(far_reader, writer)
                    )

    @asynccontextmanager
    async def _closing(self, writer: asyncio.StreamWriter) -> AsyncIterator[None]:
        self._writers.add(writer)
        try:
            yield
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            self._writers.discard(writer)

    async def _pump_until_end(self, *directions: Coroutine[None, None, None]) -> None:
        pumps = [asyncio.create_task(direction) for direction in directions]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

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
            for handler in self._handlers:
                handler.cancel()
            await asyncio.gather(*self._handlers, return_exceptions=True)
            await self._server.wait_closed()


def _reset(writer: asyncio.StreamWriter) -> None:
    linger = struct.pack("ii", 1, 0)  # of no time: the other side sees a reset, not an end
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


@asynccontextmanager
async def link_to(target_port: int) -> AsyncIterator[Link]:
    """A link while the block runs."""
    link = Link(target_port)
    async with link._open():
        yield link
