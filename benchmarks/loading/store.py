"""The row from an object store: a local server of byte ranges, on the loopback device.

Run as a program it is that server: DIRECTORY, and it prints its port.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import perf_counter

from lite_llm.tiers import (
    Arena,
    DiskReader,
    HostMemory,
    HostTier,
    Loader,
    open_source,
    plan_load,
)
from loading.contestants import Facts, touch_layer
from loading.inputs import SAFETENSORS, manifest_in, warm_up
from loading.machine import (
    PAGE,
    REQUEST,
    THREADS,
    environment,
    interleaved,
    touched_memory,
)

CONNECTIONS = 16


class Ranges(BaseHTTPRequestHandler):
    """Parts of files of the working directory."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        """The size."""
        self._answer(with_body=False)

    def do_GET(self) -> None:
        """The bytes of a ``Range: bytes=A-B``, or all."""
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        with Path(self.path[1:]).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            wanted = self.headers["Range"]
            first, last = 0, size - 1
            if wanted:
                first, last = map(int, wanted.removeprefix("bytes=").split("-"))
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.send_header("Content-Length", str(last + 1 - first))
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Sat, 21 Nov 2026 00:00:00 GMT")
            self.end_headers()
            while with_body and first <= last:
                sent = os.sendfile(self.connection.fileno(), file.fileno(), first, last + 1 - first)
                first += sent

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as the class has it
        """Nothing: a line a request would be measured too."""


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """The address of a server of this directory, in a process of its own."""
    server = subprocess.Popen(
        [sys.executable, "-m", "loading.store"],
        cwd=directory,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.terminate()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()


def plain_gets(address: str, room: memoryview, size: int) -> float:
    """Seconds of 16 connections that fetch ranges of the same size into memory, unchecked."""
    host = address.removeprefix("http://")
    offsets = iter(range(0, size, REQUEST))

    def fetch() -> int:
        done, connection = 0, HTTPConnection(host)
        for start in offsets:
            at, stop = start, min(start + REQUEST, size)
            headers = {"Range": f"bytes={start}-{stop - 1}"}
            connection.request("GET", f"/{SAFETENSORS}", headers=headers)
            with connection.getresponse() as answer:
                while at < stop:
                    at += answer.readinto(room[at:stop])
            done += stop - start
        connection.close()
        return done

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        began = perf_counter()
        jobs = [pool.submit(fetch) for _ in range(CONNECTIONS)]
        assert sum(job.result() for job in jobs) == size
        return perf_counter() - began


def from_store(directory: Path, rounds: int) -> Facts:
    """A load over HTTP and plain ranged GETs, by turns; and when the first layer can be used."""
    manifest = manifest_in(directory)
    size = manifest.num_bytes
    warm_up(directory / SAFETENSORS)
    room = touched_memory(size)
    host = HostTier(Arena("dram", HostMemory(-(-(size + (1 << 20)) // PAGE) * PAGE)))
    reader = DiskReader(threads=THREADS)
    loader = Loader(host, reader)
    plan = plan_load(manifest)
    # What must be there for the first layer: embeddings and layer 0.
    early = plan.stages[0].needs | plan.stages[1].needs
    share = sum(plan.requests[number].num_bytes for number in early) / plan.num_bytes
    first_layer: list[float] = []

    async def load(address: str) -> float:
        source = await open_source(address)
        began = perf_counter()
        async with loader.load(manifest, [source]) as load:
            touch_layer(await load.embeddings())
            touch_layer(await load.layer(0))
            first_layer.append(perf_counter() - began)
            async for layer in load.layers():
                touch_layer(layer)
            seconds = perf_counter() - began
        await source.close()
        host.clear()
        return seconds

    with served(directory) as address:
        mine, plain = interleaved(
            [lambda: asyncio.run(load(address)), lambda: plain_gets(address, room, size)], rounds
        )
    reader.close()
    ours = statistics.median(mine)
    return {
        "gb_per_s": size / 1e9 / ours,
        "plain_gb_per_s": size / 1e9 / statistics.median(plain),
        "of_plain": statistics.median(plain) / ours,
        "first_layer_s": statistics.median(first_layer),
        "first_layer_of_share": statistics.median(first_layer) / ours / share,
    }


def main() -> None:
    """Serve until terminated."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
