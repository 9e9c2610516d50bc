"""No worker survives its daemon, whichever way the daemon ends."""

import os
import signal
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.testing.guard import Guard

WAIT = 60.0  # seconds; for the machine's worst day

DAEMON = """
import asyncio, sys
from pathlib import Path
from lite_llm.agent import AgentSettings, running
from lite_llm.metastore import StoreSettings, open_store
from lite_llm.proto.v1 import agent_pb2, model_pb2
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.wire import open_channel

async def load(agent, name, checkpoint):
    spec = model_pb2.ModelSpec(ref=model_pb2.ModelRef(name=name))
    spec.source.uri = checkpoint
    async for progress in agent.Load(agent_pb2.LoadRequest(spec=spec)):
        print(f"{name} is {progress.message}", flush=True)

async def main(state, checkpoint):
    settings = AgentSettings(state_directory=Path(state), node="node-1", worker_threads=1)
    async with open_store(StoreSettings()) as store, running(settings, store) as agent:
        async with open_channel(agent.grpc_address) as channel:
            await load(AgentStub(channel), "first", checkpoint)
            await load(AgentStub(channel), "second", checkpoint)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def guard() -> Iterator[Guard]:
    with Guard() as guard:
        yield guard


def test_kill_9_of_the_daemon_ends_workers_that_serve_and_workers_that_start(guard: Guard) -> None:
    checkpoint = tiny_llama(guard.directory / "checkpoint", seed=1)
    argv = [sys.executable, "-c", DAEMON, str(guard.directory / "state"), str(checkpoint)]
    daemon = guard.spawn(argv, log="daemon.log")
    deadline = time.monotonic() + WAIT
    while len(workers_of(daemon.pid)) < 2:
        assert time.monotonic() < deadline, guard.log_tail("daemon.log")
        time.sleep(0.02)
    assert "first is serving" in guard.log_tail("daemon.log")
    workers = workers_of(daemon.pid)
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.wait()
    assert "second is serving" not in guard.log_tail("daemon.log")
    _, alive = psutil.wait_procs(workers, timeout=WAIT)
    assert alive == []


def workers_of(pid: int) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(pid).children(recursive=True)
        if "lite_llm.engine.worker" in child.cmdline()
    ]
