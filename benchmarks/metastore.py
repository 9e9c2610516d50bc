"""Our client of etcd beside three others: puts and gets a second, and how late a watch tells.

    python benchmarks/metastore.py [--rounds 7] [--endpoint 127.0.0.1:2379] [--json]

All clients speak to one real etcd. Each round measures one figure of every client before the next
figure, in random order, so that a busy moment of the machine falls on all of them. A figure is the
median over the rounds, a ratio the median of the rounds' ratios. aetcd gets the deadline that our
calls always have; the other two offer none.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import aetcd
import etcd3gw
import etcd_client

from lite_llm.metastore import Store, StoreSettings, open_store
from lite_llm.testing.etcd import etcd_server

VALUE = b"x" * 100
NUM_SEQUENTIAL, NUM_PARALLEL, NUM_EVENTS = 300, 1000, 300
WIDTH = 64  # calls under way at once
PREFIX = "/benchmark/"
WATCH_START_SECONDS = 0.02  # between puts until a watch has begun

Told = Callable[[], None]


class Client(Protocol):
    """What is measured of each library."""

    async def put(self, key: str) -> object: ...

    async def get(self, key: str) -> object: ...

    async def watch(self, prefix: str, told: Told) -> None:
        """Call ``told`` for every event, until cancelled."""
        ...


class Ours:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def put(self, key: str) -> object:
        return await self._store.put(key, VALUE)

    async def get(self, key: str) -> object:
        return await self._store.get(key)

    async def watch(self, prefix: str, told: Told) -> None:
        async with self._store.watch(prefix) as events:
            async for _ in events:
                told()


class Aetcd:
    def __init__(self, client: Any) -> None:
        self._client = client

    async def put(self, key: str) -> object:
        return await self._client.put(key.encode(), VALUE)

    async def get(self, key: str) -> object:
        return await self._client.get(key.encode())

    async def watch(self, prefix: str, told: Told) -> None:
        async for _ in await self._client.watch_prefix(prefix.encode()):
            told()


class Rust:
    def __init__(self, client: Any) -> None:
        self._client = client

    async def put(self, key: str) -> object:
        return await self._client.put(key.encode(), VALUE)

    async def get(self, key: str) -> object:
        return await self._client.get(key.encode())

    async def watch(self, prefix: str, told: Told) -> None:
        async for _ in self._client.watch_prefix(prefix.encode()):
            told()


class Gateway:
    """Blocking calls over HTTP, so in threads."""

    def __init__(self, client: Any, threads: ThreadPoolExecutor) -> None:
        self._client = client
        self._threads = threads

    async def _run(self, call: Callable[[], object]) -> object:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def put(self, key: str) -> object:
        return await self._run(partial(self._client.put, key, VALUE))

    async def get(self, key: str) -> object:
        return await self._run(partial(self._client.get, key))

    async def watch(self, prefix: str, told: Told) -> None:
        events, cancel = self._client.watch_prefix(prefix)

        def listen() -> None:
            for _ in events:
                told()

        listening = self._threads.submit(listen)
        try:
            await asyncio.Event().wait()
        finally:
            cancel()
            listening.result()


@asynccontextmanager
async def open_clients(endpoint: str) -> AsyncIterator[dict[str, Client]]:
    """Every library under test, connected."""
    host, _, port = endpoint.rpartition(":")
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(StoreSettings(endpoints=(endpoint,))))
        theirs = await stack.enter_async_context(
            aetcd.Client(host, int(port), timeout=StoreSettings().call_seconds)
        )
        rust = await stack.enter_async_context(etcd_client.Client([f"http://{endpoint}"]).connect())
        threads = stack.enter_context(ThreadPoolExecutor(WIDTH + 1))
        gateway = etcd3gw.client(host, int(port), api_path="/v3/")
        yield {
            "lite_llm": Ours(store),
            "aetcd": Aetcd(theirs),
            "etcd-client-py": Rust(rust),
            "etcd3gw": Gateway(gateway, threads),
        }


async def rate_sequential(call: Callable[[str], Awaitable[object]]) -> float:
    """Calls a second, one after the other."""
    began = perf_counter()
    for number in range(NUM_SEQUENTIAL):
        await call(f"{PREFIX}{number % 100}")
    return NUM_SEQUENTIAL / (perf_counter() - began)


async def rate_parallel(call: Callable[[str], Awaitable[object]]) -> float:
    """Calls a second, ``WIDTH`` at a time."""
    numbers = iter(range(NUM_PARALLEL))

    async def work() -> None:
        for number in numbers:
            await call(f"{PREFIX}{number % 100}")

    began = perf_counter()
    await asyncio.gather(*(work() for _ in range(WIDTH)))
    return NUM_PARALLEL / (perf_counter() - began)


async def watch_latencies(client: Client) -> list[float]:
    """Milliseconds from before a put until the watcher hears of it."""
    prefix = PREFIX + "watched/"
    loop = asyncio.get_running_loop()
    arrivals: asyncio.Queue[float] = asyncio.Queue()

    def told() -> None:
        loop.call_soon_threadsafe(arrivals.put_nowait, perf_counter())

    watching = asyncio.create_task(client.watch(prefix, told))
    num_puts = 0
    while arrivals.empty():
        await client.put(prefix + "start")
        num_puts += 1
        await asyncio.sleep(WATCH_START_SECONDS)
    await asyncio.sleep(10 * WATCH_START_SECONDS)
    while not arrivals.empty():
        arrivals.get_nowait()
    latencies = []
    for _ in range(NUM_EVENTS):
        sent = perf_counter()
        await client.put(prefix + "a")
        latencies.append((await arrivals.get() - sent) * 1000)
    watching.cancel()
    await asyncio.wait({watching})
    return latencies


async def watch_delays(client: Client) -> dict[str, float]:
    """The two delays that matter: the usual, and the worst of a hundred."""
    latencies = await watch_latencies(client)
    return {
        "watch p50 ms": statistics.median(latencies),
        "watch p99 ms": statistics.quantiles(latencies, n=100)[98],
    }


async def rate(
    name: str, measured: Callable[[Client], Awaitable[float]], client: Client
) -> dict[str, float]:
    return {name: await measured(client)}


MEASUREMENTS: tuple[Callable[[Client], Awaitable[dict[str, float]]], ...] = (
    partial(rate, "put/s", lambda client: rate_sequential(client.put)),
    partial(rate, "get/s", lambda client: rate_sequential(client.get)),
    partial(rate, f"put/s x{WIDTH}", lambda client: rate_parallel(client.put)),
    partial(rate, f"get/s x{WIDTH}", lambda client: rate_parallel(client.get)),
    watch_delays,
)

Rounds = dict[str, list[dict[str, float]]]
"""By client: the figures of each round."""


async def run(endpoint: str, num_rounds: int) -> Rounds:
    """Measure every client in every round."""
    async with open_clients(endpoint) as clients:
        rounds: Rounds = {name: [{} for _ in range(num_rounds)] for name in clients}
        for number in range(num_rounds):
            for measurement in MEASUREMENTS:
                for name in random.sample(list(clients), len(clients)):
                    rounds[name][number] |= await measurement(clients[name])
    return rounds


def medians(rounds: Rounds) -> dict[str, dict[str, float]]:
    """Of each figure, by client."""
    return {
        name: {figure: statistics.median(one[figure] for one in each) for figure in each[0]}
        for name, each in rounds.items()
    }


def times_better(rounds: Rounds, name: str, figure: str) -> float:
    """How often more calls, or less delay, ours has than ``name``."""
    pairs = zip(rounds["lite_llm"], rounds[name], strict=True)
    ratio = statistics.median(ours[figure] / theirs[figure] for ours, theirs in pairs)
    return 1 / ratio if figure.endswith("ms") else ratio


def table(rounds: Rounds) -> str:
    """Markdown; in brackets how many times better ours is."""
    figures = list(rounds["lite_llm"][0])
    lines = ["| client | " + " | ".join(figures) + " |", "|---" * (len(figures) + 1) + "|"]
    for name, values in medians(rounds).items():
        cells = [
            f"{value:.{2 if figure.endswith('ms') else 0}f}"
            f" ({times_better(rounds, name, figure):.2f})"
            for figure, value in values.items()
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--endpoint", help="host:port; default: an etcd started for this run")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.endpoint:
        rounds = asyncio.run(run(options.endpoint, options.rounds))
    else:
        with etcd_server() as server:
            rounds = asyncio.run(run(server.endpoint, options.rounds))
    print(json.dumps(medians(rounds), indent=2) if options.json else table(rounds))


if __name__ == "__main__":
    main()
