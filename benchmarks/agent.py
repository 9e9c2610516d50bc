"""The daemon that owns a node: how soon a model serves, and what the daemon itself costs.

    python benchmarks/agent.py [--gigabytes 1] [--rounds 3] [--json]

The daemon is a process of its own with the metadata store inside, its models in worker processes.
A wake is told beside a copy of as many bytes in memory, made in the same round: other work on the
machine slows down both. The daemon's cost is its own processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.testing.checkpoints import Shape, tiny_llama
from lite_llm.testing.guard import Guard
from lite_llm.wire import Line, open_channel

if TYPE_CHECKING:
    from lite_llm.proto.v1.agent_pb2_grpc import AgentAsyncStub

DAEMON = """
import asyncio, sys
from pathlib import Path
from lite_llm.agent import AgentSettings, running
from lite_llm.metastore import StoreSettings, open_store

async def main(state):
    settings = AgentSettings(state_directory=Path(state), node="bench", kv_bytes=256 << 20)
    async with open_store(StoreSettings()) as store, running(settings, store) as agent:
        print("ADDRESS", agent.grpc_address, flush=True)
        await asyncio.Event().wait()

asyncio.run(main(sys.argv[1]))
"""
STREAMS, TOKENS = 64, 64
IDLE_SECONDS = 15.0
LAYER_BYTES = 252 << 20  # of the large model below, in float32
TICKS = os.sysconf("SC_CLK_TCK")

Figures = dict[str, float]


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, its children not counted."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_bytes(pid: int) -> int:
    """Memory of a process, what it shares divided among those who do."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def copy_seconds(num_bytes: int) -> float:
    """For a copy in memory whose pages are there already."""
    source, target = (np.ones(num_bytes, np.uint8) for _ in range(2))
    began = time.perf_counter()
    np.copyto(target, source)
    return time.perf_counter() - began


@asynccontextmanager
async def daemon(guard: Guard) -> AsyncIterator[tuple[AgentAsyncStub, int]]:
    """A stub of it, and its process id."""
    process = guard.spawn(
        [sys.executable, "-c", DAEMON, str(guard.directory / "state")], log="daemon.log"
    )
    while not (told := guard.log_tail("daemon.log").partition("ADDRESS ")[2].splitlines()):
        assert process.poll() is None, guard.log_tail("daemon.log")
        await asyncio.sleep(0.01)
    async with open_channel(told[0]) as channel:
        yield AgentStub(channel), process.pid


def ref(name: str) -> model_pb2.ModelRef:
    """Of a model here."""
    return model_pb2.ModelRef(namespace="default", name=name)


async def loaded(stub: AgentAsyncStub, name: str, checkpoint: Path) -> float:
    """Seconds until it serves."""
    spec = model_pb2.ModelSpec(ref=ref(name))
    spec.source.uri = str(checkpoint)
    began = time.perf_counter()
    async for _ in stub.Load(agent_pb2.LoadRequest(spec=spec)):
        pass
    return time.perf_counter() - began


async def wakes(stub: AgentAsyncStub, name: str, num_bytes: int, rounds: int) -> Figures:
    """Medians of a wake, of a copy of its bytes, and of their ratio."""
    taken: list[float] = []
    copies: list[float] = []
    for _ in range(rounds):
        async for _ in stub.Sleep(agent_pb2.SleepRequest(model=ref(name))):
            pass
        copies.append(copy_seconds(num_bytes))
        began = time.perf_counter()
        async for _ in stub.Wake(agent_pb2.WakeRequest(model=ref(name))):
            pass
        taken.append(time.perf_counter() - began)
    ratios = [(wake - 0.05) / copy for wake, copy in zip(taken, copies, strict=True)]
    return {
        "wake_seconds": statistics.median(taken),
        "copy_seconds": statistics.median(copies),
        "wake_less_50_ms_by_copy": statistics.median(ratios),
    }


def start_of(number: int, name: str) -> generate_pb2.GenerateRequest:
    """A request for so many tokens."""
    sampling = generate_pb2.SamplingParameters(max_tokens=TOKENS, ignore_eos=True)
    start = generate_pb2.GenerateStart(
        request_id=f"{number}", model=ref(name), text="the same", sampling=sampling
    )
    return generate_pb2.GenerateRequest(start=start)


async def streams(stub: AgentAsyncStub, pid: int, name: str) -> Figures:
    """What the daemon spends on passing tokens through: as orchestrators ask, and one by one."""
    line = Line(stub)

    async def shared(number: int) -> int:
        with line.generation(start_of(number, name)) as generation:
            return sum(
                [len(event.tokens.token_ids) async for events in generation for event in events]
            )

    async def alone(number: int) -> int:
        call = stub.Generate(iter([start_of(number, name)]))
        return sum([len(event.tokens.token_ids) async for event in call])

    figures: Figures = {}
    for one, suffix in ((shared, ""), (alone, "_a_call_each")):
        await one(0)
        before, began = cpu_seconds(pid), time.perf_counter()
        total = sum(await asyncio.gather(*(one(number) for number in range(STREAMS))))
        spent, passed = cpu_seconds(pid) - before, time.perf_counter() - began
        figures[f"tokens_per_second{suffix}"] = total / passed
        share = 100 * 1000 * spent / total
        figures[f"daemon_core_percent_per_1000_tokens_per_second{suffix}"] = share
    line.close()
    return figures


async def idle(pid: int) -> Figures:
    """Of a daemon that holds two models which nobody asks."""
    before = cpu_seconds(pid)
    await asyncio.sleep(IDLE_SECONDS)
    return {
        "idle_core_percent": 100 * (cpu_seconds(pid) - before) / IDLE_SECONDS,
        "idle_megabytes": resident_bytes(pid) / 1e6,
    }


async def measure(gigabytes: float, rounds: int) -> Figures:
    """All figures."""
    figures: Figures = {}
    layers = max(1, round(gigabytes * (1 << 30) / LAYER_BYTES))
    shape = Shape(hidden=2048, ffn=8192, heads=16, kv_heads=8, layers=layers)
    with Guard("lite-llm-bench") as guard:
        tiny = tiny_llama(guard.directory / "tiny", seed=1)
        large = tiny_llama(guard.directory / "large", seed=2, shape=shape)
        num_bytes = sum(path.stat().st_size for path in large.iterdir())
        began = time.perf_counter()
        async with daemon(guard) as (stub, pid):
            figures["daemon_up_seconds"] = time.perf_counter() - began
            await loaded(stub, "first", tiny)
            figures["start_to_active_seconds"] = time.perf_counter() - began
            figures["second_model_seconds"] = await loaded(stub, "second", tiny)
            figures["large_gigabytes"] = num_bytes / (1 << 30)
            figures["large_model_seconds"] = await loaded(stub, "large", large)
            figures |= await wakes(stub, "large", num_bytes, rounds)
            figures |= await wakes_of_tiny(stub, rounds)
            await stub.Unload(agent_pb2.UnloadRequest(model=ref("large")))
            figures |= await streams(stub, pid, "first")
            figures |= await idle(pid)
    return figures


async def wakes_of_tiny(stub: AgentAsyncStub, rounds: int) -> Figures:
    """What a wake costs that moves no bytes."""
    return {"tiny_wake_seconds": (await wakes(stub, "second", 1 << 20, rounds))["wake_seconds"]}


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of the model that sleeps")
    parser.add_argument("--rounds", type=int, default=3, help="of sleep and wake")
    parser.add_argument("--json", action="store_true", help="print one object")
    given = parser.parse_args()
    figures = asyncio.run(measure(given.gigabytes, given.rounds))
    if given.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:50} {value:10.3f}")


if __name__ == "__main__":
    main()
