"""A whole agent as one block: started in order, stopped in reverse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from lite_llm.agent.changes import Changes
from lite_llm.agent.declared import Declared
from lite_llm.agent.devices import devices, settled
from lite_llm.agent.exposition import Exposition
from lite_llm.agent.house import disk_budgets, opened
from lite_llm.agent.http_port import http_serving, make_app
from lite_llm.agent.models import hosting
from lite_llm.agent.node import inspected, memory_bytes
from lite_llm.agent.openai_api import OpenAiApi
from lite_llm.agent.peers import Peers
from lite_llm.agent.registration import Registration, registered
from lite_llm.agent.reports import Reporter
from lite_llm.agent.service import AgentService
from lite_llm.agent.settings import AgentSettings
from lite_llm.agent.state_directory import claimed
from lite_llm.metastore import MeasuredStore, Store
from lite_llm.proto.v1.agent_pb2 import DESCRIPTOR
from lite_llm.proto.v1.agent_pb2_grpc import add_AgentServicer_to_server
from lite_llm.telemetry import Program, metrics_of
from lite_llm.wire import serving

SERVICE = DESCRIPTOR.services_by_name["Agent"].full_name

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RunningAgent:
    """An agent that serves."""

    node: str
    grpc_address: str
    """``host:port`` that others reach it at."""
    http_address: str = ""
    """The same of health and metrics."""


@asynccontextmanager
async def running(settings: AgentSettings, store: Store) -> AsyncIterator[RunningAgent]:
    """An agent while the block runs: it serves, and says so in ``store``.

    At the end it first leaves the store, so that nobody sends more; then running requests get
    ``stop_seconds``; then the workers stop.
    """
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(claimed(settings.state_directory))
        found = await asyncio.to_thread(devices, memory_bytes())
        settings = settled(settings, found)
        changes, metrics = Changes(), metrics_of(Program.AGENT)
        store = MeasuredStore(store, metrics)
        declared, peers = Declared(store), Peers(store, settings)
        house, disks = await stack.enter_async_context(
            opened(settings, directory, changes, metrics, declared, peers.sharing)
        )
        budgets = disk_budgets(settings)
        node = await asyncio.to_thread(
            inspected,
            {medium: budget.directory for medium, budget in budgets.items()},
            directory.root / "speeds.json",
            found,
        )
        models = await stack.enter_async_context(hosting(house, changes))
        reporter = Reporter(
            settings,
            node,
            models,
            memory=house.memory,
            device=house.device,
            warmth=house.warmth,
            disks=disks,
            disk_bytes={medium: budget.num_bytes for medium, budget in budgets.items()},
        )
        exposition = Exposition(metrics, models)
        service = AgentService(models, house.checkpoints, declared, reporter, exposition)
        services = {SERVICE: lambda server: add_AgentServicer_to_server(service, server)}
        endpoint = await stack.enter_async_context(
            serving(settings.listen, services, tls=settings.tls)
        )
        stack.push_async_callback(service.close, settings.stop_seconds)
        reporter.grpc_address = settings.address(endpoint.port)
        api = OpenAiApi(models, settings.node) if settings.serves_openai else None
        app = make_app(reporter, exposition, api)
        port = await stack.enter_async_context(http_serving(settings.listen_http, app))
        reporter.http_address = settings.http_address(port)
        await service.open(endpoint)
        registration = Registration(store, settings, reporter, changes)
        await stack.enter_async_context(registered(registration))
        log.info("agent up", node=settings.node, address=reporter.grpc_address)
        yield RunningAgent(settings.node, reporter.grpc_address, reporter.http_address)
        log.info("agent stopping", node=settings.node)
