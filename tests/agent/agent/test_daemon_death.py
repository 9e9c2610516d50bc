"""Whichever way a daemon ends, nothing survives it, and the next one goes on where it stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import psutil
import pytest

from lite_llm.agent.orphans import note, reap
from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import AgentKey, ResidencyKey, key_of
from lite_llm.metastore import Store, open_store
from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.testing.etcd import EtcdServer, etcd_server
from lite_llm.testing.guard import Guard
from lite_llm.wire import loads, open_channel, ref_to_proto

WAIT = 90.0  # seconds; for the machine's worst day
NODE, TINY = "node-1", ModelRef("default", "tiny")

DAEMON = """
import asyncio, sys
from pathlib import Path
from lite_llm.agent import AgentSettings, running
from lite_llm.cli.lifetime import run
from lite_llm.cli.programs import serve
from lite_llm.metastore import StoreSettings
settings = AgentSettings(
    state_directory=Path(sys.argv[1]), node="node-1", worker_threads=1, prefork=True,
    heartbeat_seconds=0.3, lease_seconds=1.0, kv_bytes=1 << 20,
)
run(serve(running, settings, StoreSettings(endpoints=(sys.argv[2],))))
"""


@pytest.fixture
def guard() -> Iterator[Guard]:
    with Guard() as guard:
        yield guard


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    with etcd_server() as server:
        yield server


class Daemon:
    def __init__(self, guard: Guard, etcd: EtcdServer) -> None:
        self.guard = guard
        self.state = guard.directory / "state"
        self.etcd = etcd
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = [sys.executable, "-c", DAEMON, str(self.state), self.etcd.endpoint]
        self.process = self.guard.spawn(argv, log="daemon.log")

    async def end(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)
        await asyncio.to_thread(self.process.wait, WAIT)

    def workers(self) -> list[psutil.Process]:
        assert self.process is not None
        return [
            child
            for child in psutil.Process(self.process.pid).children(recursive=True)
            if "lite_llm.engine.worker" in child.cmdline()
        ]

    @asynccontextmanager
    async def channel(self, store: Store, not_at: str = "") -> AsyncIterator[grpc.aio.Channel]:
        address, deadline = "", time.monotonic() + WAIT
        while address in ("", not_at):
            assert time.monotonic() < deadline, self.guard.log_tail("daemon.log")
            if entry := await store.get(key_of(AgentKey(NODE))):
                status = loads(entry.value, agent_pb2.AgentStatus, where="status")
                address = status.grpc_address
            await asyncio.sleep(0.05)
        self.address = address
        async with open_channel(address) as channel:
            yield channel


async def load(channel: grpc.aio.Channel, checkpoint: Path) -> None:
    spec = model_pb2.ModelSpec(ref=ref_to_proto(TINY))
    spec.source.uri = str(checkpoint)
    async for progress in AgentStub(channel).Load(agent_pb2.LoadRequest(spec=spec)):
        last = progress
    assert last.message == "serving"


async def tokens(channel: grpc.aio.Channel) -> list[int]:
    sampling = generate_pb2.SamplingParameters(max_tokens=8, ignore_eos=True)
    start = generate_pb2.GenerateStart(
        request_id="r", model=ref_to_proto(TINY), text="the same", sampling=sampling
    )
    call = AgentStub(channel).Generate(iter([generate_pb2.GenerateRequest(start=start)]))
    return [token async for event in call for token in event.tokens.token_ids]


async def test_kill_9_and_sigterm(guard: Guard, etcd: EtcdServer) -> None:
    checkpoint = tiny_llama(guard.directory / "checkpoint", seed=1)
    daemon = Daemon(guard, etcd)
    async with open_store(etcd.settings()) as store:
        daemon.start()
        async with daemon.channel(store) as channel:
            await load(channel, checkpoint)
            expected = await tokens(channel)
        workers = daemon.workers()
        assert workers
        await daemon.end(signal.SIGKILL)
        _, alive = psutil.wait_procs(workers, timeout=WAIT)
        assert alive == []

        daemon.start()  # it serves again what it held, and nobody had to ask for it
        async with daemon.channel(store, not_at=daemon.address) as channel:
            async for report in AgentStub(channel).Watch(agent_pb2.AgentStatusRequest()):
                if [held.state for held in report.residencies] == [model_pb2.MODEL_STATE_ACTIVE]:
                    break
            assert await tokens(channel) == expected
        workers = daemon.workers()
        await daemon.end(signal.SIGTERM)
        assert daemon.process is not None
        assert daemon.process.returncode == 0
        assert not any(worker.is_running() for worker in workers)
        for key in (key_of(AgentKey(NODE)), key_of(ResidencyKey(TINY, NODE))):
            assert await store.get(key) is None
        for folder in ("run", "specs", "cache/views", "cache/partial"):
            assert list(os.scandir(daemon.state / folder)) == []


def test_an_orphan_is_ended_and_a_stranger_is_not(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(sleeper) as orphan, subprocess.Popen(sleeper) as stranger:
        os.kill(orphan.pid, signal.SIGSTOP)  # so deep in trouble that no thread of it runs
        note(tmp_path / "0.pid", orphan.pid)
        reap(tmp_path / "0.pid")
        assert orphan.wait(WAIT) == -signal.SIGKILL
        reap(tmp_path / "0.pid")  # it is gone, and its number may be another's
        (tmp_path / "1.pid").write_text(f"{stranger.pid} 1")
        (tmp_path / "2.pid").write_text("half")
        for name in ("1.pid", "2.pid"):
            reap(tmp_path / name)
        assert stranger.poll() is None
        stranger.kill()
