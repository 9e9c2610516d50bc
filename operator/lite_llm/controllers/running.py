"""The operator as a whole: once elected it lists, watches and reconciles until told to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic

import structlog

from lite_llm.contracts.errors import LeaseLost, StoreUnavailable
from lite_llm.contracts.keyspace import ROOT
from lite_llm.controllers.cluster import Cluster, open_cluster
from lite_llm.controllers.facts import Facts
from lite_llm.controllers.leading import leading
from lite_llm.controllers.objects import Objects
from lite_llm.controllers.patches import finalizer_patch
from lite_llm.controllers.probes import Health, http_serving, make_app
from lite_llm.controllers.reconciling import Reconciler, StatusSettings
from lite_llm.controllers.settings import OperatorSettings
from lite_llm.controllers.specs import KINDS, ResourceName
from lite_llm.controllers.wakeups import Wakeups
from lite_llm.controllers.watching import (
    everything,
    follow_store,
    keep_watching,
    list_all,
    resync,
)
from lite_llm.metastore import MeasuredStore, Store
from lite_llm.telemetry import names

log = structlog.get_logger(__name__)

Look = Callable[[ResourceName], Awaitable[float | None]]


@asynccontextmanager
async def running(settings: OperatorSettings, store: Store) -> AsyncIterator[Health]:
    """Serve while the block runs; entered once objects are watched, or another is seen to lead.

    Raises ``InvalidSettings`` where there is no way into the cluster, or no right to look, and
    ``LeaseLost`` when another leads: a process runs one term and is then started anew.
    """
    health, started = Health(), asyncio.Event()
    store = MeasuredStore(store, health.metrics)

    def start() -> None:
        health.is_started = True
        started.set()

    async with AsyncExitStack() as house:
        identity = settings.lease.identity if settings.lease else "operator"
        cluster = await house.enter_async_context(
            open_cluster(settings.kubeconfig, namespaces=settings.namespaces, identity=identity)
        )
        await _check_rights(cluster)
        if settings.listen_http:
            app = make_app(health)
            await house.enter_async_context(http_serving(settings.listen_http, app))
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(_serve(settings, cluster, store, health, start))
            try:
                await started.wait()
                yield health
            finally:
                serving.cancel()


async def release_all(settings: OperatorSettings) -> None:
    """Take our finalizer off every object, for when no operator will be there to do it.

    A kind whose definition is gone has no objects; the other's wait for us all the same.
    """
    count = 0
    async with open_cluster(settings.kubeconfig, namespaces=settings.namespaces) as cluster:
        for plural in KINDS:
            if not await cluster.defines(plural):
                continue
            for body in await cluster.list(plural):
                if patch := finalizer_patch(body, wanted=False):
                    await cluster.patch(ResourceName.of(plural, body), patch, status=False)
                    count += 1
    log.info("finalizers taken off", count=count)


async def _check_rights(cluster: Cluster) -> None:
    for plural in KINDS:
        try:
            await cluster.list(plural)
        except StoreUnavailable as error:
            log.warning("custom resources can't be listed yet", error=str(error))


async def _serve(
    settings: OperatorSettings,
    cluster: Cluster,
    store: Store,
    health: Health,
    start: Callable[[], None],
) -> None:
    if settings.lease is None:
        health.is_leading = True
        await _work(settings, cluster, store, health, start)
        return
    async with leading(cluster, settings.lease, on_standby=start) as lost:
        health.is_leading = True
        try:
            await _work_until(lost, _work(settings, cluster, store, health, start))
        finally:
            health.is_leading = False
    # A new term begins in a new process: nothing of the old one can be left over.
    raise LeaseLost(
        "another operator leads by now",
        where=settings.lease.name,
        remedy="start this one again, to stand by",
    )


async def _work_until(over: asyncio.Event, work: Awaitable[None]) -> None:
    """Work, but stop as soon as it is over; what ends ``work`` by itself is raised."""
    working, waiting = asyncio.ensure_future(work), asyncio.create_task(over.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        waiting.cancel()
        working.cancel()
        await asyncio.wait({working, waiting})


async def _work(
    settings: OperatorSettings,
    cluster: Cluster,
    store: Store,
    health: Health,
    start: Callable[[], None],
) -> None:
    """List, watch and reconcile, for ever."""
    objects, facts = Objects(), Facts()
    bell: Wakeups[ResourceName] = Wakeups(pace_seconds=settings.pace_seconds)
    health.stuck_seconds, health.num_waiting = (
        lambda: bell.stuck_seconds,
        lambda: bell.num_waiting,
    )
    reconciler = Reconciler(
        cluster,
        store,
        objects,
        facts,
        StatusSettings(
            selector=settings.agent_selector,
            url=settings.door_url,
            release_seconds=settings.release_seconds,
        ),
        settings.namespaces,
    )
    await list_all(cluster, objects)
    async with store.watch(ROOT) as events:
        facts.observe(await anext(events))
        bell.ring(everything(objects, facts))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(follow_store(events, facts, objects, bell, health))
            tasks.create_task(
                resync(cluster, objects, facts, bell, every_seconds=settings.resync_seconds)
            )
            tasks.create_task(
                keep_watching(
                    cluster,
                    objects,
                    bell,
                    health,
                    namespaces=settings.namespaces,
                    on_watched=start,
                )
            )
            look = measured(reconciler.reconcile, health)
            await bell.serve(look, workers=settings.workers)


def measured(look: Look, health: Health) -> Look:
    """``look``, with its duration and failures in the metrics."""
    durations = health.metrics[names.RECONCILE_DURATION_SECONDS]
    errors = health.metrics[names.RECONCILE_ERRORS_TOTAL]

    async def measure(name: ResourceName) -> float | None:
        began = monotonic()
        try:
            return await look(name)
        except Exception:
            errors.labels(controller=name.plural).inc()
            raise
        finally:
            durations.labels(controller=name.plural).observe(monotonic() - began)

    return measure
