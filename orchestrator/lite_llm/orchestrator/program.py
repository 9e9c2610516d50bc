"""Puts the rooms together: started in order, stopped in reverse."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from lite_llm.console import add_console
from lite_llm.dispatch import (
    Dispatcher,
    Orders,
    autoscaling,
    breaking,
    connecting,
    guarding,
    loading,
    switching,
)
from lite_llm.gateway import SERVICE, OrchestratorService, make_app, serving_http
from lite_llm.metastore import MeasuredStore, Store
from lite_llm.orchestrator.settings import OrchestratorSettings
from lite_llm.placement import Binder, watching
from lite_llm.proto.v1.orchestrator_pb2_grpc import add_OrchestratorServicer_to_server
from lite_llm.registry import ingesting
from lite_llm.telemetry import Program, metrics_of
from lite_llm.tenants import Admission, open_keys
from lite_llm.wire import serving

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Orchestrator:
    """Where a running one listens, as ``host:port``."""

    http_address: str
    grpc_address: str


@asynccontextmanager
async def running(settings: OrchestratorSettings, store: Store) -> AsyncIterator[Orchestrator]:
    """An orchestrator while the block runs. It keeps nothing: all it knows is in ``store``."""
    async with AsyncExitStack() as house:
        keys = open_keys(settings.keys)
        metrics = metrics_of(Program.ORCHESTRATOR)
        store = MeasuredStore(store, metrics)
        views = await house.enter_async_context(watching(store))
        agents = await house.enter_async_context(connecting(views, tls=settings.agent_tls))
        breakers = house.enter_context(breaking(views))
        watchdog = await house.enter_async_context(
            guarding(views, agents, breakers, stall_seconds=settings.stall_seconds)
        )
        name = f"orchestrator-{uuid.uuid4().hex[:12]}"
        if settings.registry is not None:
            await house.enter_async_context(ingesting(store, settings.registry, name))
        binder = Binder(store, name, claim_seconds=settings.claim_seconds)
        orders = Orders(store, views, agents, binder, settings.registry)
        uses = await house.enter_async_context(
            autoscaling(
                store,
                views,
                orders,
                name,
                metrics=metrics,
                lease_seconds=settings.claim_seconds,
                every_seconds=settings.scaling_seconds,
            )
        )
        loads = await house.enter_async_context(
            loading(
                views,
                binder,
                agents,
                breakers,
                watchdog,
                metrics=metrics,
                no_agent_seconds=settings.no_agent_seconds,
                weights=settings.weights,
                registry=settings.registry,
            )
        )
        dispatcher = Dispatcher(
            views,
            loads,
            agents,
            breakers,
            watchdog,
            uses,
            metrics=metrics,
            hold=settings.hold,
            weights=settings.weights,
        )
        admission = Admission(
            metrics, capacity=settings.max_running, max_waiting=settings.max_waiting
        )
        aliases = await house.enter_async_context(switching(store, views, loads))
        service = OrchestratorService(
            dispatcher, loads, orders, aliases, views, metrics, keys, admission
        )
        endpoint = await house.enter_async_context(
            serving(
                settings.listen_grpc,
                {SERVICE: lambda server: add_OrchestratorServicer_to_server(service, server)},
                tls=settings.grpc_tls,
                grace=settings.grace_seconds,
            )
        )
        house.callback(service.close)
        app = make_app(
            dispatcher, views, metrics, keys, admission, max_body_bytes=settings.max_body_bytes
        )
        add_console(app, dispatcher, orders, views, metrics)
        http_address = await house.enter_async_context(
            serving_http(app, settings.listen_http, grace_seconds=settings.grace_seconds)
        )
        await endpoint.set_serving(True)
        grpc_host = settings.listen_grpc.rpartition(":")[0]
        orchestrator = Orchestrator(http_address, f"{grpc_host}:{endpoint.port}")
        log.info("orchestrator ready", address=http_address)
        yield orchestrator
