"""A whole agent as one block: started in order, stopped in reverse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from lite_llm.agent.models import hosting
from lite_llm.agent.registration import Registration, registered
from lite_llm.agent.service import AgentService
from lite_llm.agent.settings import AgentSettings
from lite_llm.metastore import Store
from lite_llm.proto.v1.agent_pb2 import DESCRIPTOR
from lite_llm.proto.v1.agent_pb2_grpc import add_AgentServicer_to_server
from lite_llm.wire import serving

SERVICE = DESCRIPTOR.services_by_name["Agent"].full_name

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RunningAgent:
    """An agent that serves."""

    node: str
    grpc_address: str
    """``host:port`` that others reach it at."""


@asynccontextmanager
async def running(settings: AgentSettings, store: Store) -> AsyncIterator[RunningAgent]:
    """An agent while the block runs: it serves, and says so in ``store``.

    At the end it first leaves the store, so that nobody sends more; then running requests get
    ``stop_seconds``; then the workers stop.
    """
    async with AsyncExitStack() as house:
        models = await house.enter_async_context(hosting(settings))
        service = AgentService(settings, models)  # type: ignore[abstract]  # rest: UNIMPLEMENTED
        services = {SERVICE: lambda server: add_AgentServicer_to_server(service, server)}
        endpoint = await house.enter_async_context(
            serving(settings.listen, services, tls=settings.tls)
        )
        house.push_async_callback(service.close)
        await service.open(endpoint)
        registration = Registration(store, settings, service, models.changes)
        await house.enter_async_context(registered(registration))
        log.info("agent up", node=settings.node, address=service.grpc_address)
        yield RunningAgent(settings.node, service.grpc_address)
        log.info("agent stopping", node=settings.node)
