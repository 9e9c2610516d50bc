"""Three agents, an orchestrator and etcd, each a process, and what is asked of them over HTTP."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import ModelKey, key_of
from lite_llm.metastore import open_store
from lite_llm.proto.v1.model_pb2 import ModelSource, ModelSpec, Scaling
from lite_llm.testing.command import Command
from lite_llm.testing.etcd import EtcdServer, etcd_server
from lite_llm.testing.guard import Guard, free_ports
from lite_llm.wire import dumps, ref_to_proto

MODEL: Final = ModelRef("default", "demo")
NODES: Final = ("ada", "bob", "cyd")
PATIENCE_SECONDS = 120.0
ACTIVE = "MODEL_STATE_ACTIVE"


@dataclass
class Answer:
    """A streamed completion, as far as it has come."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """Since the request was sent, of each piece."""
    told: dict[str, Any] = field(default_factory=dict)
    """How it came about, in the last piece."""


@dataclass
class Fleet:
    """What is running."""

    etcd: EtcdServer
    agents: dict[str, Command]
    door: Command
    address: str

    async def declare(self, checkpoint: str, *, replicas: int, idle_seconds: int) -> None:
        """The checkpoint at this address, as the operator does for a custom resource."""
        spec = ModelSpec(
            ref=ref_to_proto(MODEL),
            source=ModelSource(uri=checkpoint),
            scaling=Scaling(
                min_replicas=replicas,
                max_replicas=len(NODES),
                idle_seconds=idle_seconds,
                down_cooldown_seconds=1,
            ),
        )
        async with open_store(self.etcd.settings()) as store:
            await store.put(key_of(ModelKey(MODEL)), dumps(spec))

    def ask(
        self,
        prompt: str,
        *,
        max_tokens: int,
        tier_set: str = "",
        on_piece: Callable[[int], None] | None = None,
    ) -> Answer:
        """Stream a sampled completion whose seed is fixed; ``on_piece`` hears each one's number."""
        extension: dict[str, Any] = {"explain": True}
        if tier_set:
            extension["tier_set"] = tier_set
        body = {
            "model": MODEL.name,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0.7,
            "seed": 11,
            "ignore_eos": True,
            "stream": True,
            "return_token_ids": True,
            "lite_llm": extension,
        }
        answer, started = Answer(), time.monotonic()
        for chunk in self._events(body):
            answer.told = chunk.get("lite_llm") or answer.told
            for choice in chunk.get("choices", ()):
                answer.text += choice.get("text") or ""
                answer.token_ids += choice.get("token_ids") or []
                answer.seconds.append(time.monotonic() - started)
                if on_piece is not None:
                    on_piece(len(answer.seconds))
        return answer

    def serving(self) -> list[str]:
        """Nodes that answer for the model now."""
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", "/lite-llm/v1/fleet")
            view = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        found = [model for model in view["models"] if model["spec"]["ref"]["name"] == MODEL.name]
        residencies = [each for model in found for each in model.get("residencies", ())]
        return sorted(each["node"] for each in residencies if each.get("state") == ACTIVE)

    def wait_serving(self, enough: Callable[[list[str]], bool], what: str) -> float:
        """Seconds until ``enough`` of the nodes that answer; :class:`SystemExit` after minutes."""
        started = time.monotonic()
        while not enough(nodes := self.serving()):
            if time.monotonic() - started > PATIENCE_SECONDS:
                raise SystemExit(f"{what} did not happen; the model is on {nodes or 'no agent'}")
            time.sleep(0.1)
        return time.monotonic() - started

    def _events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE_SECONDS)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/completions", json.dumps(body), headers)
            response = connection.getresponse()
            if response.status != 200:
                raise SystemExit(f"{response.status}: {response.read().decode()}")
            self.node = response.headers["X-Lite-Llm-Agent"]
            for line in response:
                data = line.removeprefix(b"data: ").strip()
                if line.startswith(b"data: ") and data != b"[DONE]":
                    event: dict[str, Any] = json.loads(data)
                    if "error" in event:
                        raise SystemExit(f"the stream broke off: {event['error']}")
                    yield event
        finally:
            connection.close()

    node: str = ""
    """That began the last answer."""


@contextmanager
def running_fleet() -> Iterator[Fleet]:
    """All of it up; no process and no file is left afterwards."""
    with ExitStack() as house:
        etcd = house.enter_context(etcd_server())
        guard = house.enter_context(Guard("lite-llm-story"))
        url, (port,) = f"http://{etcd.endpoint}", free_ports(1)
        agents = {
            node: Command(guard, "agent", "--etcd", url, "--node", node, name=node)
            for node in NODES
        }
        address = f"127.0.0.1:{port}"
        listen = ("--listen", address, "--listen-grpc", "127.0.0.1:0")
        door = Command(guard, "orchestrator", "--etcd", url, *listen, name="door")
        door.wait_said("orchestrator ready")
        for agent in agents.values():
            agent.wait_said("agent registered")
        yield Fleet(etcd, agents, door, address)
