"""Real agents die in the middle of answers, and nobody who reads these can tell."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import AGENTS, ModelKey, key_of
from lite_llm.metastore import Store, open_store
from lite_llm.proto.v1.agent_pb2 import AgentStatus, LoadRequest
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.proto.v1.model_pb2 import ModelSource, ModelSpec
from lite_llm.testing.command import Command
from lite_llm.testing.etcd import EtcdServer, etcd_server
from lite_llm.testing.guard import Guard, free_ports, marked_processes
from lite_llm.wire import dumps, loads, open_channel, ref_to_proto

MODEL = ModelRef("default", "tiny")
TOKENS = 400
QUESTIONS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "the quick brown fox", "temperature": 0, "logprobs": 2}),
    ("/v1/completions", {"prompt": "the quick", "n": 2, "seed": 11, "presence_penalty": 0.3}),
    (
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "fox?"}],
            "seed": 5,
            "logprobs": True,
            "top_logprobs": 1,
        },
    ),
]


@pytest.fixture
def talkative(checkpoint: Path, tmp_path: Path) -> Path:
    """The same model, which can chat."""
    shutil.copytree(checkpoint, tmp_path / "tiny")
    (tmp_path / "tiny" / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message.content }} {% endfor %}"
    )
    return tmp_path / "tiny"


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    with etcd_server() as server:
        yield server


async def load_everywhere(store: Store, checkpoint: Path) -> dict[str, AgentStatus]:
    """The model on every registered agent, by node."""
    spec = ModelSpec(ref=ref_to_proto(MODEL), source=ModelSource(uri=checkpoint.as_uri()))
    await store.put(key_of(ModelKey(MODEL)), dumps(spec))
    entries = (await store.list_prefix(AGENTS)).entries
    agents = [loads(entry.value, AgentStatus, where=entry.key) for entry in entries]
    for agent in agents:
        async with open_channel(agent.grpc_address) as channel:
            async for _ in AgentStub(channel).Load(LoadRequest(spec=spec)):
                pass
    return {agent.node: agent for agent in agents}


class Answer:
    """A stream, read as far as somebody wants."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.node = response.headers["X-Lite-Llm-Agent"]
        self._response = response
        self._chunks: list[bytes] = []

    async def read(self, count: int) -> None:
        """So many more events; comments, which tell that somebody waits, are none."""
        while count:
            chunk = await self._response.content.readuntil(b"\n\n")
            if not chunk.startswith(b":"):
                self._chunks.append(chunk)
                count -= 1

    async def rest(self) -> list[bytes]:
        """All events, without comments and what differs from one request to the next.

        Each choice is in order; which of two choices speaks first is left to the moment.
        """
        left = re.sub(rb"(?m)^:.*\n\n", b"", await self._response.read())
        whole = b"".join([*self._chunks, left])
        whole = re.sub(rb'"cached_tokens":\d+', b"", whole)
        events = re.sub(rb'"(id|created)":("[^"]*"|\d+)', b"", whole).split(b"\n\n")
        return sorted(events, key=lambda event: (b'"choices":[]' in event, b'"index":1' in event))


async def asked(
    http: aiohttp.ClientSession, path: str, fields: dict[str, Any]
) -> AsyncIterator[Answer]:
    body = {
        "model": "tiny",
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        **fields,
    }
    async with http.post(path, json=body) as response:
        assert response.status == 200, await response.text()
        yield Answer(response)


def workers_of(guard: Guard, agent: Command) -> list[int]:
    """Children of the agent's process."""
    return [
        pid
        for pid in marked_processes(guard.mark)
        if int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        == agent.process.pid
    ]


async def test_agents_and_workers_die_and_the_bytes_are_the_same(
    guard: Guard, etcd: EtcdServer, talkative: Path
) -> None:
    (port,) = free_ports(1)
    url = f"http://{etcd.endpoint}"
    agents = {
        node: Command(guard, "agent", "--etcd", url, "--node", node, name=node)
        for node in ("n1", "n2", "n3")
    }
    address = f"127.0.0.1:{port}"
    arguments = ("--etcd", url, "--listen", address, "--listen-grpc", "127.0.0.1:0")
    door = Command(guard, "orchestrator", *arguments, name="door")
    door.wait_said("orchestrator ready")
    for agent in agents.values():
        agent.wait_said("agent registered")
    async with (
        open_store(etcd.settings()) as store,
        aiohttp.ClientSession(f"http://{address}", read_bufsize=1 << 24) as http,
    ):
        await load_everywhere(store, talkative)
        undisturbed = []
        for path, fields in QUESTIONS:
            async for answer in asked(http, path, fields):
                undisturbed.append(await answer.rest())
        for events in undisturbed:
            assert b"data: [DONE]" in events
            assert not any(b'"error"' in event for event in events)

        ways = iter((kill_worker, freeze, kill_agent))
        for (path, fields), wanted in zip(QUESTIONS, undisturbed, strict=True):
            async for answer in asked(http, path, fields):
                await answer.read(20)
                since = asyncio.get_running_loop().time()
                agent = agents[answer.node]
                next(ways)(guard, agent)
                await answer.read(TOKENS // 2)
                seconds = asyncio.get_running_loop().time() - since
                assert await answer.rest() == wanted
                print(f"half of the tokens came within {seconds:.1f} s of the fault")
                thaw(guard, agent)
        moves = door.output.count("stream moves on")
        assert moves >= 2, "on a busy machine one answer may be over before its agent is"
        assert door.terminated() == 0
    assert "Traceback" not in door.output


def kill_worker(guard: Guard, agent: Command) -> None:
    """The process that computes, while its agent lives on."""
    for worker in workers_of(guard, agent):
        os.kill(worker, signal.SIGKILL)


def kill_agent(guard: Guard, agent: Command) -> None:
    """Without a word, as when a node loses its power."""
    agent.process.kill()


def freeze(guard: Guard, agent: Command) -> None:
    """It and its workers stand still, and their lines stay open: a network that was cut."""
    for pid in (*workers_of(guard, agent), agent.process.pid):
        os.kill(pid, signal.SIGSTOP)


def thaw(guard: Guard, agent: Command) -> None:
    """If it was frozen."""
    if agent.process.poll() is None:
        for pid in (agent.process.pid, *workers_of(guard, agent)):
            os.kill(pid, signal.SIGCONT)
