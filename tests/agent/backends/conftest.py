"""Workers with foreign servers: in this process, or as the agent starts them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest

from lite_llm.backends.foreign_model import ServerSettings
from lite_llm.backends.service import ForeignService
from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import LiteLLMError
from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2
from lite_llm.proto.v1.agent_pb2 import DESCRIPTOR
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub, add_AgentServicer_to_server
from lite_llm.testing.guard import Guard
from lite_llm.wire import error_from, open_channel, ref_to_proto, serving

if TYPE_CHECKING:
    from lite_llm.proto.v1.agent_pb2_grpc import AgentAsyncStub

SERVICE = DESCRIPTOR.services_by_name["Agent"].full_name
MODEL = ref_to_proto(ModelRef("default", "tiny"))
STAND_IN = Path(__file__).with_name("stand_in.py")


def load_request(backend: str, source: Path, profile: str = "small") -> agent_pb2.LoadRequest:
    """For the one model."""
    spec = model_pb2.ModelSpec(
        ref=MODEL,
        source=model_pb2.ModelSource(uri=str(source)),
        backend=backend,
        profile=profile,
    )
    return agent_pb2.LoadRequest(spec=spec)


class Worker:
    """A worker's service as a client sees it, with what tests ask again and again."""

    def __init__(
        self, stub: AgentAsyncStub, socket: Path, service: ForeignService | None = None
    ) -> None:
        self.stub = stub
        self.socket = socket
        self._service = service

    @property
    def service(self) -> ForeignService:
        """The servicer, where it runs in this process."""
        assert self._service is not None
        return self._service

    @staticmethod
    def error(failure: grpc.aio.AioRpcError) -> LiteLLMError:
        """What a call failed with."""
        return error_from(failure, where="worker")

    async def load(
        self, backend: str, source: Path, *, profile: str = "small"
    ) -> list[generate_pb2.LoadProgress]:
        """All progress of a load."""
        request = load_request(backend, source, profile)
        try:
            return [progress async for progress in self.stub.Load(request)]
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from error

    async def events(self, start: generate_pb2.GenerateStart) -> list[generate_pb2.GenerateEvent]:
        """All events of an answer."""
        request = generate_pb2.GenerateRequest(start=start)
        try:
            return [event async for event in self.stub.Generate(iter([request]))]
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from error

    async def status(self) -> agent_pb2.AgentReport:
        """What it reports."""
        report: agent_pb2.AgentReport = await self.stub.Status(agent_pb2.AgentStatusRequest())
        return report


OpenWorker = Callable[..., AbstractAsyncContextManager[Worker]]


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard() as guard:
        yield guard


@pytest.fixture(scope="module")
def open_worker(tmp_path_factory: pytest.TempPathFactory) -> OpenWorker:
    """The service in this process; its server is a process all the same."""

    @asynccontextmanager
    async def opened(**settings: Any) -> AsyncIterator[Worker]:
        path = tmp_path_factory.mktemp("w") / "w.sock"
        settings = {"stop_seconds": 1.0, **settings}
        service = ForeignService(ServerSettings(socket=path, threads=1, **settings))  # type: ignore[abstract]  # as in the worker
        services = {SERVICE: lambda server: add_AgentServicer_to_server(service, server)}
        async with (
            service,
            serving(f"unix:{path}", services, grace=0.5),
            open_channel(f"unix:{path}") as channel,
        ):
            yield Worker(AgentStub(channel), path, service)

    return opened


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """``vllm``, ``toka`` and ``llama-server`` on PATH are scripted ones."""
    directory = tmp_path_factory.mktemp("bin")
    for name in ("vllm", "toka", "llama-server"):
        program = directory / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" {name} "$@"\n')
        program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(directory), prepend=":")
        yield
