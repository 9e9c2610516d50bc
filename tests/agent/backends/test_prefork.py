"""Workers that a process with everything imported forks: started, watched, and clean."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from tests.agent.backends.conftest import MODEL, Worker
from tests.agent.engine.conftest import Driver

from lite_llm.backends.forked import UNKNOWN, ForkedProcess, Prefork, prefork
from lite_llm.contracts.errors import WorkerCrashed
from lite_llm.engine import Limits, Model, Request, Sampling, load_model
from lite_llm.proto.v1 import generate_pb2 as wire
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.wire import open_channel

WAIT = 60.0  # seconds; for the machine's worst day
TOY = """
import json, os, socket, sys, threading

imported_by = os.getpid()
called = []

def warm_up():
    called.append(os.getpid())

def main(arguments):
    name, lifeline = arguments[0], socket.socket(fileno=int(arguments[-1]))
    threads = len(os.listdir("/proc/self/task"))
    files = sorted(set(os.listdir("/proc/self/fd")) - {str(lifeline.fileno())})
    facts = dict(name=name, threads=threads, files=files, imported_by=imported_by, called=called,
                 session=os.getsid(0), pid=os.getpid())
    print(json.dumps(facts), flush=True)
    print("to standard error", file=sys.stderr, flush=True)
    threading.Thread(target=lambda: None).start()
    lifeline.sendall(b"!")
    lifeline.recv(1)
    return 7
"""
WITH_A_THREAD = (
    "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
)
WITH_A_DEVICE = """
import sys, types
sys.modules["torch"] = types.SimpleNamespace(
    cuda=types.SimpleNamespace(is_initialized=lambda: True))
"""


@dataclass
class Toy:
    process: ForkedProcess
    lifeline: socket.socket
    log: Path

    def facts(self) -> dict[str, object]:
        told: dict[str, object] = json.loads(self.log.read_text().splitlines()[0])
        return told


@contextlib.asynccontextmanager
async def started(forks: Prefork, directory: Path, name: str) -> AsyncIterator[Toy]:
    """A worker that is up."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    log = directory / f"{name}.log"
    with ours:
        with theirs, log.open("wb") as output:
            process = await forks.start([name], lifeline=theirs.fileno(), output=output.fileno())
        async with asyncio.timeout(WAIT):
            assert await asyncio.get_running_loop().sock_recv(ours, 1) == b"!"
        yield Toy(process, ours, log)


@pytest.fixture
def toy(tmp_path: Path) -> dict[str, str]:
    """The environment in which ``toy`` can be imported."""
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "threaded.py").write_text(WITH_A_THREAD)
    (tmp_path / "opened.py").write_text(WITH_A_DEVICE)
    (tmp_path / "endless.py").write_text("import threading\nthreading.Event().wait()")
    return {"PYTHONPATH": str(tmp_path)}


async def test_workers_share_the_import_and_nothing_else(
    toy: dict[str, str], tmp_path: Path
) -> None:
    async with prefork("toy", "toy:warm_up", environment=toy) as forks:
        assert await forks.wait_ready()
        async with started(forks, tmp_path, "a") as first, started(forks, tmp_path, "b") as second:
            facts = [worker.facts() for worker in (first, second)]
            assert [each["name"] for each in facts] == ["a", "b"]
            assert [each["pid"] for each in facts] == [first.process.pid, second.process.pid]
            assert facts[0]["imported_by"] == facts[1]["imported_by"] != first.process.pid
            for each in facts:
                assert each["called"] == [each["imported_by"]]
                assert each["session"] == each["pid"]
                assert each["threads"] == 1
                # Standard ones, and the directory that is just read: no other worker's lifeline.
                assert each["files"] == ["0", "1", "2", each["files"][-1]]  # type: ignore[index]  # a list
            assert "to standard error" in first.log.read_text()
        # The block's end closed the lifelines.
        assert await asyncio.wait_for(first.process.wait(), WAIT) == 7
        assert await asyncio.wait_for(second.process.wait(), WAIT) == 7
        with pytest.raises(ProcessLookupError):
            first.process.terminate()


async def test_it_tells_how_each_worker_ends(toy: dict[str, str], tmp_path: Path) -> None:
    async with prefork("toy", environment=toy) as forks:
        assert await forks.wait_ready()
        async with started(forks, tmp_path, "a") as first, started(forks, tmp_path, "b") as second:
            first.process.kill()
            second.process.terminate()
            assert await asyncio.wait_for(first.process.wait(), WAIT) == -signal.SIGKILL
            assert await asyncio.wait_for(second.process.wait(), WAIT) == -signal.SIGTERM
            assert second.process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("module", ["threaded", "opened", "absent"])
async def test_what_can_not_be_forked_is_not(toy: dict[str, str], module: str) -> None:
    async with prefork(module, environment=toy) as forks:
        assert not await asyncio.wait_for(forks.wait_ready(), WAIT)
        with pytest.raises(WorkerCrashed):
            await forks.start([], lifeline=0, output=1)


async def test_workers_outlive_their_prefork_and_are_still_watched(
    toy: dict[str, str], tmp_path: Path
) -> None:
    async with prefork("toy", environment=toy) as forks:
        assert await forks.wait_ready()
        async with started(forks, tmp_path, "a") as worker:
            psutil.Process(worker.process.pid).parent().kill()  # type: ignore[union-attr]  # it has one
            async with asyncio.timeout(WAIT):
                while forks.is_ready:  # noqa: ASYNC110 - a process tells nothing of its murder
                    await asyncio.sleep(0.01)
            assert worker.process.returncode is None
            with pytest.raises(WorkerCrashed):
                await forks.start([], lifeline=0, output=1)
            worker.process.kill()
            assert await asyncio.wait_for(worker.process.wait(), WAIT) == UNKNOWN


async def test_a_prefork_that_stands_still_keeps_nobody(
    toy: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lite_llm.backends.forked._PATIENCE_SECONDS", 0.2)
    for asks in (True, False):
        async with asyncio.timeout(WAIT), prefork("toy", environment=toy) as forks:
            assert await forks.wait_ready()
            async with started(forks, tmp_path, "a") as worker:
                psutil.Process(worker.process.pid).parent().suspend()  # type: ignore[union-attr]  # it has one
                if asks:
                    with pytest.raises(WorkerCrashed, match="has ended"):
                        await forks.start([], lifeline=0, output=1)
                    assert not forks.is_ready
                    worker.process.kill()


async def test_a_request_that_can_not_be_sent_is_said_so_and_mixes_up_no_others(
    toy: dict[str, str], tmp_path: Path
) -> None:
    closed = 1 << 20  # never reached by counting
    async with asyncio.timeout(WAIT), prefork("toy", environment=toy) as forks:
        assert await forks.wait_ready()
        for lifeline, words in ((closed, "a"), (1, "a" * (1 << 20))):  # no file; too much to send
            with pytest.raises(WorkerCrashed, match="takes no request"):
                await forks.start([words], lifeline=lifeline, output=1)
        async with started(forks, tmp_path, "b") as worker:
            assert worker.facts()["pid"] == worker.process.pid


async def test_a_start_that_is_cut_leaves_no_socket(toy: dict[str, str]) -> None:
    starting = asyncio.create_task(prefork("toy", environment=toy).__aenter__())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    gc.collect()  # which warns of what nobody closed


async def test_it_ends_with_its_starter(toy: dict[str, str]) -> None:
    others = set(psutil.Process(os.getpid()).children())
    async with prefork("toy", environment=toy) as forks:
        assert await forks.wait_ready()
        ours = set(psutil.Process(os.getpid()).children()) - others
    assert ours
    assert psutil.wait_procs(ours, timeout=WAIT)[1] == []


async def test_an_import_without_end_keeps_nobody(toy: dict[str, str]) -> None:
    async with asyncio.timeout(WAIT), prefork("endless", environment=toy):
        await asyncio.sleep(0.1)


async def test_a_forked_worker_gives_the_bytes_of_a_started_one(tmp_path: Path) -> None:
    checkpoint = tiny_llama(tmp_path / "model", seed=5)
    *_, model = load_model(checkpoint)
    assert isinstance(model, Model)
    driver = Driver(model)
    prompt = model.tokenizer.encode("the same")
    limits = Limits(max_tokens=12)
    (reader,) = driver.run(Request(prompt=prompt, sampling=Sampling(seed=3), limits=limits))
    driver.close()
    async with prefork("lite_llm.engine.worker", "lite_llm.kernels:warm_up") as forks:
        assert await forks.wait_ready()
        answers = [answer_of(forks, tmp_path / f"{name}.sock", checkpoint) for name in "ab"]
        assert await asyncio.gather(*answers) == [reader.ids(), reader.ids()]


async def answer_of(forks: Prefork, path: Path, checkpoint: Path) -> list[int]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours:
        with theirs, path.with_suffix(".log").open("wb") as output:
            arguments = ["--socket", str(path), "--threads", "2"]
            process = await forks.start(arguments, lifeline=theirs.fileno(), output=output.fileno())
        assert await asyncio.get_running_loop().sock_recv(ours, 1) == b"!"
        async with open_channel(f"unix:{path}") as channel:
            worker = Worker(AgentStub(channel), path)
            await worker.load("", checkpoint, profile="")
            sampling = wire.SamplingParameters(max_tokens=12, seed=3, ignore_eos=True)
            start = wire.GenerateStart(model=MODEL, text="the same", sampling=sampling)
            events = await worker.events(start)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), WAIT) == 0
    return [token for event in events for token in event.tokens.token_ids]
