"""The operator: kopf watches, each event rings, and one loop mirrors what rang."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import kopf
import structlog
from kopf._cogs.structs.references import Insights  # an argument's type, exported nowhere else

from lite_llm.contracts.errors import Internal
from lite_llm.controllers.cluster import RETRY_SECONDS, Cluster, open_cluster
from lite_llm.controllers.mirror import Mirror
from lite_llm.controllers.specs import GROUP, MODELS, VERSION, ResourceName
from lite_llm.controllers.wakeups import Wakeups
from lite_llm.metastore import Store

log = structlog.get_logger(__name__)


Bell = Wakeups[ResourceName, Mapping[str, Any] | None]
"""Rings with the object as it is now, or None when it is gone."""


@dataclass(frozen=True, kw_only=True)
class OperatorSettings:
    """How one operator runs."""

    kubeconfig: str | None = None
    """Path of a kubeconfig; None is the service account of the pod that it runs in."""


@asynccontextmanager
async def running(settings: OperatorSettings, store: Store) -> AsyncIterator[None]:
    """Serve while the block runs; entered once custom resources are watched."""
    mirror = Mirror(store)
    bell: Bell = Wakeups(retry_seconds=RETRY_SECONDS)

    async with open_cluster(settings.kubeconfig) as cluster:
        await mirror.collect(await cluster.wait_models())

        async def look(resource: ResourceName, body: Mapping[str, Any] | None) -> None:
            if body is None:
                await mirror.forget(resource)
                return
            now = datetime.now(UTC).isoformat(timespec="seconds")
            status = await mirror.declare(body, now=now)
            if status != body.get("status"):
                await cluster.write_status(resource, status)

        watched = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            serving = [
                tasks.create_task(bell.serve(look)),
                tasks.create_task(_keep_watching(_registry(cluster, bell), watched)),
            ]
            try:
                await watched.wait()
                yield
            finally:
                for task in serving:
                    task.cancel()


async def _keep_watching(registry: kopf.OperatorRegistry, watched: asyncio.Event) -> None:
    """Run kopf until cancelled, anew as long as it finds none of our resources.

    kopf looks once, at its start, and goes on blind if an API server that is starting too does not
    yet know our CRDs.
    """
    while True:
        insights, stop = Insights(), asyncio.Event()
        kopf_task = asyncio.create_task(
            kopf.operator(
                registry=registry,
                settings=_kopf_settings(),
                insights=insights,
                clusterwide=True,
                standalone=True,
                stop_flag=stop,
            )
        )
        found = asyncio.create_task(insights.ready_resources.wait())
        try:
            await asyncio.wait({kopf_task, found}, return_when=asyncio.FIRST_COMPLETED)
            if insights.watched_resources:
                watched.set()
                await asyncio.wait({kopf_task})
        finally:
            found.cancel()
            stop.set()
            await kopf_task
        if watched.is_set():
            raise Internal("kopf ended by itself", remedy="see its log, and restart the operator")
        log.warning("custom resources are not served yet", group=GROUP)
        await asyncio.sleep(RETRY_SECONDS)


def _registry(cluster: Cluster, bell: Bell) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(cluster.login)

    # Raw events need neither a finalizer nor kopf's annotations; an error in them would be lost.
    @kopf.on.event(GROUP, VERSION, MODELS, registry=registry)
    def changed(event: kopf.RawEvent, body: kopf.Body, **_: Any) -> None:
        bell.ring(ResourceName.of(body), None if event["type"] == "DELETED" else dict(body))

    return registry


def _kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True  # needs fewer rights; _keep_watching does its work
    # Proxies drop silent connections: end watches ourselves before they do.
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    return settings
