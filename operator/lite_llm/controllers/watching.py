"""What rings: kopf's watches of our objects, the store's events, and the clock."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence

import kopf
import structlog
from kopf._cogs.structs.references import Insights  # an argument's type, exported nowhere else

from lite_llm.contracts.errors import Internal, StoreUnavailable
from lite_llm.controllers.cluster import Cluster
from lite_llm.controllers.facts import Facts
from lite_llm.controllers.objects import Objects
from lite_llm.controllers.probes import Health
from lite_llm.controllers.specs import (
    GROUP,
    KINDS,
    MODELS,
    TIER_SETS,
    VERSION,
    Plural,
    ResourceName,
)
from lite_llm.controllers.wakeups import Wakeups
from lite_llm.metastore import Event

RETRY_SECONDS = 1.0  # about an API server's restart
SERVER_SECONDS = 300  # proxies drop silent connections: watches end themselves before they do

Bell = Wakeups[ResourceName]

log = structlog.get_logger(__name__)


async def list_all(cluster: Cluster, objects: Objects) -> None:
    """Fill ``objects`` as soon as the API server serves our kinds."""
    while True:
        try:
            for plural in KINDS:
                for body in await cluster.list(plural):
                    objects.seen(plural, body)
        except StoreUnavailable as error:
            log.warning("custom resources can't be listed yet", error=str(error))
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return


async def follow_store(
    events: AsyncIterator[Event], facts: Facts, objects: Objects, bell: Bell, health: Health
) -> None:
    """Ring whom the store's events are about; all, where they may be about all."""
    async for event in events:
        health.hears("store")
        changed = facts.observe(event)
        bell.ring(everything(objects, facts) if changed is None else changed)


def everything(objects: Objects, facts: Facts) -> set[ResourceName]:
    """Every object, and every intent that may have lost its object."""
    stored = (facts.name_of(key) for key in facts.intents)
    return {*objects, *(name for name in stored if name is not None)}


async def resync(
    cluster: Cluster, objects: Objects, facts: Facts, bell: Bell, *, every_seconds: float
) -> None:
    """Look at everything now and then, so that nothing that a watch missed stays missed."""
    while True:
        await asyncio.sleep(every_seconds)
        known = {name: objects.get(name) for name in objects}
        try:
            listed = {plural: await cluster.list(plural) for plural in KINDS}
        except StoreUnavailable as error:
            log.warning("no resync", error=str(error))
            continue
        for plural, bodies in listed.items():
            there = {ResourceName.of(plural, body) for body in bodies}
            for body in bodies:
                objects.seen(plural, body)
            for name, was in known.items():  # what came after the list is in neither
                if name.plural == plural and name not in there and was is not None:
                    objects.gone(plural, was)
        bell.ring(everything(objects, facts) | known.keys())


async def keep_watching(
    cluster: Cluster,
    objects: Objects,
    bell: Bell,
    health: Health,
    *,
    namespaces: Sequence[str],
    on_watched: Callable[[], None],
) -> None:
    """Run kopf until cancelled, anew as long as it finds none of our resources.

    kopf looks once, at its start, and goes on blind if an API server that is starting too does not
    yet know our CRDs.
    """
    loop = asyncio.get_running_loop()

    def heard(plural: Plural, event: kopf.RawEvent) -> None:
        health.hears(plural)
        told = objects.gone if event["type"] == "DELETED" else objects.seen
        bell.ring(told(plural, event["object"]))

    def hear(plural: Plural, event: kopf.RawEvent) -> None:
        loop.call_soon_threadsafe(heard, plural, event)

    def found() -> None:
        loop.call_soon_threadsafe(on_watched)

    while True:
        stop = threading.Event()
        watching = _watch(_registry(cluster, hear), namespaces, stop, found)
        # A thread and loop of its own: kopf takes over its loop's signals and, when it ends,
        # cancels all tasks there that it does not know.
        thread = asyncio.ensure_future(asyncio.to_thread(asyncio.run, watching))
        try:
            has_found = await asyncio.shield(thread)
        finally:
            stop.set()
            await asyncio.wait({thread})
        if has_found:
            raise Internal("kopf ended by itself", remedy="see its log, and restart the operator")
        log.warning("custom resources are not served yet", group=GROUP)
        await asyncio.sleep(RETRY_SECONDS)


async def _watch(
    registry: kopf.OperatorRegistry,
    namespaces: Sequence[str],
    stop: threading.Event,
    on_found: Callable[[], None],
) -> bool:
    """Run kopf until ``stop`` is set; False at once if it does not find both of our kinds."""
    quiet_kopf()
    insights = Insights()
    kopf_task = asyncio.create_task(
        kopf.operator(
            registry=registry,
            settings=_kopf_settings(),
            insights=insights,
            clusterwide=not namespaces,
            namespaces=namespaces,
            standalone=True,
            stop_flag=stop,
        )
    )
    scanned = asyncio.create_task(insights.ready_resources.wait())
    await asyncio.wait({kopf_task, scanned}, return_when=asyncio.FIRST_COMPLETED)
    scanned.cancel()
    has_found = len(insights.watched_resources) == len(KINDS)
    if has_found:
        on_found()
    else:
        stop.set()
    await kopf_task
    return has_found


def quiet_kopf() -> None:
    """Spare the log a line of kopf's for every event, and its settings in every line."""
    logger = logging.getLogger("kopf.objects")
    logger.setLevel(logging.WARNING)
    logger.addFilter(_without_settings)


def _without_settings(record: logging.LogRecord) -> bool:
    for name in ("settings", "k8s_skip"):
        vars(record).pop(name, None)
    return True


def _registry(
    cluster: Cluster, hear: Callable[[Plural, kopf.RawEvent], None]
) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(cluster.login)

    # Raw events need neither a finalizer nor kopf's annotations; an error in them would be lost.
    # Coroutines, since kopf sends functions to threads, where they overtake each other.
    @kopf.on.event(GROUP, VERSION, MODELS, registry=registry)
    async def model_changed(event: kopf.RawEvent, **_: object) -> None:
        hear(MODELS, event)

    @kopf.on.event(GROUP, VERSION, TIER_SETS, registry=registry)
    async def tier_set_changed(event: kopf.RawEvent, **_: object) -> None:
        hear(TIER_SETS, event)

    return registry


def _kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True  # needs fewer rights; keep_watching does its work
    settings.watching.server_timeout = SERVER_SECONDS
    settings.watching.client_timeout = SERVER_SECONDS + 30
    # A silent connection may be a dead one; the server's bookmarks come once a minute.
    settings.watching.inactivity_timeout = 90.0
    settings.networking.request_timeout = 30.0
    settings.process.ultimate_exiting_timeout = None  # else it kills the process, not its thread
    return settings
