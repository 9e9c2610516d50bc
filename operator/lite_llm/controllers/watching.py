"""The operator: kopf watches, each event rings, and one loop mirrors what rang."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import kopf

from lite_llm.controllers.cluster import Cluster, open_cluster
from lite_llm.controllers.mirror import Mirror
from lite_llm.controllers.specs import GROUP, MODELS, VERSION, ResourceName
from lite_llm.controllers.wakeups import Wakeups
from lite_llm.metastore import Store

RETRY_SECONDS = 2.0  # about an etcd restart


Bell = Wakeups[ResourceName, Mapping[str, Any] | None]
"""Rings with the object as it is now, or None when it is gone."""


@dataclass(frozen=True, kw_only=True)
class OperatorSettings:
    """How one operator runs."""

    kubeconfig: str | None = None
    """Path of a kubeconfig; None is the service account of the pod that it runs in."""


@asynccontextmanager
async def running(settings: OperatorSettings, store: Store) -> AsyncIterator[None]:
    """Serve while the block runs; entered once custom resources are being watched."""
    mirror = Mirror(store)
    bell: Bell = Wakeups(retry_seconds=RETRY_SECONDS)

    async with open_cluster(settings.kubeconfig) as cluster:
        await mirror.collect(await cluster.models())

        async def look(resource: ResourceName, body: Mapping[str, Any] | None) -> None:
            if body is None:
                await mirror.forget(resource)
                return
            now = datetime.now(UTC).isoformat(timespec="seconds")
            status = await mirror.declare(body, now=now)
            if status != body.get("status"):
                await cluster.write_status(resource, status)

        watched, stopped = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(bell.serve(look))
            tasks.create_task(
                kopf.operator(
                    registry=_registry(cluster, bell),
                    settings=_kopf_settings(),
                    clusterwide=True,
                    standalone=True,
                    ready_flag=watched,
                    stop_flag=stopped,
                )
            )
            try:
                await watched.wait()
                yield
            finally:
                stopped.set()
                looking.cancel()


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
    settings.scanning.disabled = True  # our CRDs are installed before us; needs fewer rights
    # Proxies drop silent connections: end watches ourselves before they do.
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    return settings
