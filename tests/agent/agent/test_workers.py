"""Workers that end in the very moment in which something is done to them."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from lite_llm.agent import AgentSettings, workers
from lite_llm.agent.state_directory import StateDirectory
from lite_llm.agent.workers import Workers
from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import WorkerCrashed

MODEL = ModelRef("default", "m")


class Gone:
    """A process that has ended when a signal is sent, and was not known to a moment before."""

    pid = 1 << 30
    returncode: int | None = None

    async def wait(self) -> int:
        if self.returncode is None:
            await asyncio.Event().wait()
        return 0

    def terminate(self) -> None:
        """It takes its time."""

    def kill(self) -> None:
        self.returncode = 0
        raise ProcessLookupError


class Forks:
    """A prefork whose answer comes when it is let go."""

    def __init__(self) -> None:
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()
        self.answer: Gone | WorkerCrashed = Gone()

    async def wait_ready(self) -> bool:
        return True

    async def start(self, arguments: list[str], *, lifeline: int, output: int) -> Gone:
        self.asked.set()
        await self.may_answer.wait()
        if isinstance(self.answer, WorkerCrashed):
            raise self.answer
        return self.answer


@pytest.fixture
def made(tmp_path: Path) -> Workers:
    settings = AgentSettings(state_directory=tmp_path, stop_seconds=0.05, start_seconds=0.05)
    return Workers(StateDirectory(tmp_path), settings)


async def test_one_that_ends_just_before_it_is_killed(made: Workers, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    process: Any = Gone()
    path = tmp_path / "a"
    with theirs:
        await made._stop(workers._Running(process, ours, path, path, path))
    assert ours.fileno() < 0


@pytest.mark.parametrize("answer", [Gone(), WorkerCrashed("the prefork has ended")])
async def test_a_start_that_is_withdrawn_stays_withdrawn(
    made: Workers, answer: Gone | WorkerCrashed
) -> None:
    forks: Any = Forks()
    forks.answer, made._forks = answer, forks

    async def start() -> None:
        async with made.open(MODEL):
            raise AssertionError("nobody wants it any more")

    starting = asyncio.create_task(start())
    await forks.asked.wait()
    starting.cancel()
    await asyncio.sleep(0)
    forks.may_answer.set()
    with pytest.raises(asyncio.CancelledError):
        await starting


async def test_one_that_is_gone_before_it_is_noted(
    made: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def note(path: Path, pid: int) -> None:
        raise ProcessLookupError  # reading of a process that ends

    forks: Any = Forks()
    forks.may_answer.set()
    made._forks = forks
    monkeypatch.setattr(workers, "note", note)
    with pytest.raises(WorkerCrashed, match="did not answer"):
        async with made.open(MODEL):
            pass
