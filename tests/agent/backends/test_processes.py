"""A foreign server and all that it started are gone when whoever started it is."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.agent.backends.conftest import Worker

from lite_llm.backends.server_process import TETHER
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.testing.guard import Guard
from lite_llm.wire import open_channel

WAIT = 60.0  # seconds; for the machine's worst day
FAMILY = "sleep 600 & setsid sleep 600 & echo $$; trap '' TERM; sleep 600; sleep 600"
"""A shell with children, one of them in a session of its own, that ignores requests to end."""


def tethered(*command: str) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-I", "-S", str(TETHER), *command]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def family_of(tether: subprocess.Popen[bytes], size: int) -> list[psutil.Process]:
    """The tether's descendants, once there are so many."""
    for _ in range(int(WAIT / 0.02)):
        found = psutil.Process(tether.pid).children(recursive=True)
        if len(found) == size:
            return found
        psutil.wait_procs([], timeout=0.02)
    raise AssertionError(f"never {size} processes")


@pytest.fixture
def family() -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
    tether = tethered("sh", "-c", FAMILY)
    with tether:
        assert tether.stdout is not None
        assert tether.stdout.readline()
        yield tether, family_of(tether, 4)


Family = tuple[subprocess.Popen[bytes], list[psutil.Process]]


def test_all_are_gone_when_the_lifeline_breaks(family: Family) -> None:
    tether, processes = family
    assert tether.stdin is not None
    tether.stdin.close()
    assert tether.wait(WAIT) == 0
    assert psutil.wait_procs(processes, timeout=WAIT)[1] == []


def test_all_are_gone_when_the_program_ends(family: Family) -> None:
    tether, processes = family
    processes[0].send_signal(signal.SIGKILL)
    assert tether.wait(WAIT) == -signal.SIGKILL  # it ends as its program did
    assert psutil.wait_procs(processes, timeout=WAIT)[1] == []


def test_the_program_is_gone_when_the_tether_is_killed(family: Family) -> None:
    tether, processes = family
    tether.kill()
    assert psutil.wait_procs(processes[:1], timeout=WAIT)[1] == []
    for orphan in processes[1:]:
        orphan.kill()


@pytest.mark.parametrize(("command", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -6 $$", -6)])
def test_it_ends_as_its_program_does(command: str, status: int) -> None:
    with tethered("sh", "-c", command) as tether:
        assert tether.wait(WAIT) == status


def test_sigterm_is_the_programs_to_obey() -> None:
    with tethered("sh", "-c", "trap 'exit 5' TERM; echo; while :; do sleep 0.05; done") as tether:
        assert tether.stdout is not None
        tether.stdout.readline()
        tether.terminate()
        assert tether.wait(WAIT) == 5


def test_a_program_that_is_not_there() -> None:
    with tethered("/no/such/program") as tether:
        assert tether.wait(WAIT) == 127


class Started:
    """A worker process, as the agent starts it."""

    def __init__(self, guard: Guard, path: Path, pids: Path) -> None:
        self.pids = pids
        self.path = path / "w.sock"
        self.lifeline, theirs = socket.socketpair()
        with theirs:
            # By number, past Guard.spawn: it closes what it does not know of.
            descriptor = os.dup(theirs.fileno())
            os.set_inheritable(descriptor, True)
            argv = [sys.executable, "-P", "-m", "lite_llm.backends.worker"]
            argv += ["--socket", str(self.path), "--lifeline", str(descriptor), "--stop-seconds=1"]
            self.process = subprocess.Popen(
                argv,
                pass_fds=[descriptor],
                env=guard.environ({"STAND_IN": "stubborn", "STAND_IN_PIDS": str(pids)}),
            )
            os.close(descriptor)
        assert self.lifeline.recv(1) == b"!"

    async def load(self, checkpoint: Path) -> list[psutil.Process]:
        """Its server, and that one's child, both deaf to SIGTERM."""
        async with open_channel(f"unix:{self.path}") as channel:
            await Worker(AgentStub(channel), self.path).load("vllm", checkpoint)
        return [psutil.Process(int(pid)) for pid in self.pids.read_text().split()]


@pytest.fixture
def started(guard: Guard, stand_ins: None, tmp_path: Path) -> Iterator[Started]:
    started = Started(guard, tmp_path, tmp_path / "pids")
    with started.lifeline, started.process:
        yield started
        started.process.kill()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


async def test_sigterm_ends_a_worker_and_its_deaf_server(
    started: Started, checkpoint: Path
) -> None:
    processes = await started.load(checkpoint)
    started.process.terminate()
    assert await asyncio.to_thread(started.process.wait, WAIT) == 0
    assert psutil.wait_procs(processes, timeout=WAIT)[1] == []
    assert not list(started.path.parent.glob("*.sock"))


async def test_a_server_is_gone_when_its_worker_is_killed(
    started: Started, checkpoint: Path
) -> None:
    processes = await started.load(checkpoint)
    started.process.kill()
    assert psutil.wait_procs(processes, timeout=WAIT)[1] == []


async def test_worker_and_server_are_gone_when_the_agent_is(
    started: Started, checkpoint: Path
) -> None:
    processes = await started.load(checkpoint)
    started.lifeline.close()
    assert await asyncio.to_thread(started.process.wait, WAIT) == 0
    assert psutil.wait_procs(processes, timeout=WAIT)[1] == []


async def test_a_worker_ends_when_its_server_does(started: Started, checkpoint: Path) -> None:
    processes = await started.load(checkpoint)
    processes[0].kill()
    assert await asyncio.to_thread(started.process.wait, WAIT) == os.EX_SOFTWARE
    assert psutil.wait_procs(processes, timeout=WAIT)[1] == []
