"""The door in front of stub agents: what it adds, how much passes through, and what waiting costs.

    python benchmarks/gateway.py [--litellm PATH/TO/litellm] [--json]

The door, the stubs, etcd and the load are processes of one machine. What a door can do on one core
is told by its own processor time, which other work on the machine does not change much: so many
requests or tokens a second of processor time. The LiteLLM proxy, if its command is given, serves
the same work in front of the same stub, over HTTP, with one worker process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import AgentKey, ResidencyKey, key_of
from lite_llm.metastore import Store, open_store
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.agent_pb2 import AgentStatus, Health, Residency
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.proto.v1.generate_pb2 import GenerateRequest, GenerateStart, SamplingParameters
from lite_llm.proto.v1.model_pb2 import Medium
from lite_llm.testing.command import Command
from lite_llm.testing.etcd import etcd_server
from lite_llm.testing.guard import Guard, free_ports
from lite_llm.wire import dumps, open_channel, ref_to_proto

STUB = Path(__file__).with_name("doors") / "stub.py"
SHORT = 8  # tokens
CONCURRENT, SLOW_ROUNDS = 50, 8
SHORT_REQUESTS, SHORT_WIDTH = 2000, 50
STREAMS, STREAM_TOKENS = 200, 200
PEERS = {"requests": 400, "streams": 40, "tokens": 50}  # of both doors in turn: peers take long
HELD = 1000
AGENTS, HEARTBEAT_SECONDS, IDLE_SECONDS = 1000, 3.0, 15.0
UNLOCKED = {
    "LITELLM_LOG": "ERROR",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
}  # what the LiteLLM proxy wants to hear before it serves without keys, as ours does
TICKS = os.sysconf("SC_CLK_TCK")

Figures = dict[str, float]


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_bytes(pid: int) -> int:
    """Memory that a process has of its own."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


class Door:
    """An HTTP server in front of the stub."""

    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self.pid = pid

    @asynccontextmanager
    async def open(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Clients, as many at once as wanted."""
        headers = {"Authorization": "Bearer sk-none"}
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(600)
        async with aiohttp.ClientSession(
            self.url, headers=headers, connector=connector, timeout=timeout
        ) as http:
            yield http


async def ask(http: aiohttp.ClientSession, prompt: str, tokens: int, **fields: object) -> float:
    """One completion; how long it took, in seconds."""
    body = {"model": "tiny", "prompt": prompt, "max_tokens": tokens, **fields}
    began = time.perf_counter()
    async with http.post("/v1/completions", json=body) as response:
        text = await response.read()
        assert response.status == 200, text
    return time.perf_counter() - began


async def many(http: aiohttp.ClientSession, count: int, width: int, tokens: int) -> None:
    """So many completions, ``width`` at a time."""
    left = iter(range(count))

    async def one_after_the_other() -> None:
        for _ in left:
            await ask(http, "x", tokens)

    await asyncio.gather(*(one_after_the_other() for _ in range(width)))


async def short_requests(door: Door, requests: int = SHORT_REQUESTS) -> Figures:
    """Per second of the door's processor time."""
    async with door.open() as http:
        await many(http, requests // 10, SHORT_WIDTH, SHORT)
        before, began = cpu_seconds(door.pid), time.perf_counter()
        await many(http, requests, SHORT_WIDTH, SHORT)
        used, took = cpu_seconds(door.pid) - before, time.perf_counter() - began
    return {"short requests per cpu-s": requests / used, "short requests per s": requests / took}


async def streams(
    door: Door, prompt: str = "x", *, width: int = STREAMS, length: int = STREAM_TOKENS
) -> Figures:
    """Tokens of many streams at once; those of the prompt ``steps`` come one by one, as engines
    make them, each to be sent at once."""
    async with door.open() as http:
        before, began = cpu_seconds(door.pid), time.perf_counter()
        asking = (ask(http, prompt, length, stream=True) for _ in range(width))
        await asyncio.gather(*asking)
        used, took = cpu_seconds(door.pid) - before, time.perf_counter() - began
    tokens = width * length
    name = "stepped tokens" if prompt == "steps" else "tokens"
    return {f"{name} per cpu-s": tokens / used, f"{name} per s": tokens / took}


async def added_latency(door: Door, agent: str) -> Figures:
    """Of answers that take half a second, beside calling the agent itself, in turns."""
    direct, through = list[float](), list[float]()
    async with door.open() as http, open_channel(agent) as channel:

        async def call() -> float:
            start = GenerateStart(
                request_id="r", model=ref_to_proto(ModelRef("default", "tiny")), text="slow",
                sampling=SamplingParameters(max_tokens=SHORT),
            )  # fmt: skip
            began = time.perf_counter()
            call = AgentStub(channel).Generate()
            await call.write(GenerateRequest(start=start))
            async for _ in call:
                pass
            return time.perf_counter() - began

        async def spread(number: int, asking: object) -> float:
            await asyncio.sleep(number * 0.5 / CONCURRENT)
            return await (call() if asking is call else ask(http, "slow", SHORT))

        for _ in range(SLOW_ROUNDS):
            direct += await asyncio.gather(*(spread(i, call) for i in range(CONCURRENT)))
            through += await asyncio.gather(*(spread(i, ask) for i in range(CONCURRENT)))
    return {
        f"added latency p{percent} ms": 1000
        * (_percentile(through, percent) - _percentile(direct, percent))
        for percent in (50, 99)
    }


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


async def held(door: Door) -> Figures:
    """Memory that a request takes while its model loads, beyond its body."""
    async with door.open() as http:
        before = resident_bytes(door.pid)
        body = {"model": "cold", "prompt": "x", "max_tokens": 1}
        waiting = [
            asyncio.create_task(http.post("/v1/completions", json=body)) for _ in range(HELD)
        ]
        count = 0.0
        while count < HELD:
            await asyncio.sleep(0.2)
            async with http.get("/metrics") as response:
                for line in (await response.text()).splitlines():
                    if line.startswith("lite_llm_held_requests{"):
                        count = float(line.rpartition(" ")[2])
        after = resident_bytes(door.pid)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return {"KB per held request": (after - before) / HELD / 1024}


async def idle(door: Door, store: Store) -> Figures:
    """Cores that the door needs to hear a thousand agents, each with a model."""
    model = ModelRef("default", "tiny")

    async def beat(number: int) -> None:
        node = f"n{number:04}"
        status = AgentStatus(node=node, grpc_address="127.0.0.1:1", health=Health(healthy=False))
        for medium in (Medium.MEDIUM_GPU, Medium.MEDIUM_DRAM, Medium.MEDIUM_NVME):
            status.media.add(
                medium=medium,
                capacity_bytes=1 << 36,
                used_bytes=number,
                read_bytes_per_second=1 << 30,
            )
        held = Residency(node=node, model=ref_to_proto(model), state=model_pb2.MODEL_STATE_WARM)
        await asyncio.sleep(number / AGENTS * HEARTBEAT_SECONDS)
        while True:
            status.heartbeat += 1
            await store.put(key_of(AgentKey(node)), dumps(status))
            await store.put(key_of(ResidencyKey(model, node)), dumps(held))
            await asyncio.sleep(HEARTBEAT_SECONDS)

    beating = [asyncio.create_task(beat(number)) for number in range(AGENTS)]
    await asyncio.sleep(2 * HEARTBEAT_SECONDS)
    before, began = cpu_seconds(door.pid), time.perf_counter()
    await asyncio.sleep(IDLE_SECONDS)
    cores = (cpu_seconds(door.pid) - before) / (time.perf_counter() - began)
    for task in beating:
        task.cancel()
    await asyncio.gather(*beating, return_exceptions=True)
    return {"cores with 1,000 agents": cores}


async def beside_peers(door: Door) -> Figures:
    """The same small load for every door."""
    told = await short_requests(door, PEERS["requests"])
    told |= await streams(door, width=PEERS["streams"], length=PEERS["tokens"])
    return {f"{name}, small load": value for name, value in told.items()}


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def litellm_proxy(guard: Guard, command: str, upstream: int) -> Iterator[Door]:
    """The LiteLLM proxy in front of the stub's HTTP server."""
    (port,) = free_ports(1)
    config = guard.directory / "litellm.yaml"
    parameters = {"model": "text-completion-openai/tiny", "api_key": "none",
                  "api_base": f"http://127.0.0.1:{upstream}/v1"}  # fmt: skip
    model = {"model_name": "tiny", "litellm_params": parameters}
    config.write_text(json.dumps({"model_list": [model]}))
    arguments = [command, "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    process = guard.spawn(arguments, log="litellm.log", env=UNLOCKED)
    deadline = time.monotonic() + 120
    while not _listens(port):
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(guard.log_tail("litellm.log"))
        time.sleep(0.2)
    yield Door(f"http://127.0.0.1:{port}", process.pid)
    process.terminate()


async def measured(litellm: str | None) -> dict[str, Figures]:
    """Everything, by door."""
    port, upstream = free_ports(2)
    figures: dict[str, Figures] = {}

    def tell(door: Figures, measures: Figures) -> None:
        door |= measures
        for name, value in measures.items():  # at once: a later part may fail
            who = "lite_llm" if door is figures["lite_llm"] else "litellm"
            print(f"{who:10} {name:42} {value:10.2f}", file=sys.stderr, flush=True)

    with Guard("lite-llm-benchmark") as guard, etcd_server() as etcd:
        stub = guard.spawn(
            [sys.executable, str(STUB), "--etcd", etcd.endpoint, "--port", str(upstream)],
            log="stub.log",
        )
        while "stub ready" not in guard.log_tail("stub.log"):
            assert stub.poll() is None, guard.log_tail("stub.log")
            await asyncio.sleep(0.1)
        agent = guard.log_tail("stub.log").split()[-1]
        arguments = ("--listen", f"127.0.0.1:{port}", "--listen-grpc", "127.0.0.1:0")
        url = f"http://{etcd.endpoint}"
        command = Command(guard, "orchestrator", "--etcd", url, *arguments, name="door")
        command.wait_said("orchestrator ready")
        door = Door(f"http://127.0.0.1:{port}", command.process.pid)
        ours = figures["lite_llm"] = {}
        tell(ours, await added_latency(door, agent))
        tell(ours, await streams(door))
        tell(ours, await streams(door, "steps"))
        tell(ours, await short_requests(door))
        if litellm:
            with litellm_proxy(guard, litellm, upstream) as proxy:
                tell(figures.setdefault("litellm", {}), await beside_peers(proxy))
                tell(ours, await beside_peers(door))
        tell(ours, await held(door))
        async with open_store(etcd.settings()) as store:
            tell(ours, await idle(door, store))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--litellm", help="command of the LiteLLM proxy")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = asyncio.run(measured(arguments.litellm))
    if arguments.json:
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
