"""Who of several operators works: the holder of one Lease in Kubernetes.

Clocks of machines are never compared: a Lease counts as given up once its record has stood still
for its whole duration by our own clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import aiohttp
import structlog
from kubernetes.aio import client

from lite_llm.contracts.errors import Conflict, InvalidSettings
from lite_llm.controllers.cluster import Cluster
from lite_llm.controllers.specs import Body

log = structlog.get_logger(__name__)

_TROUBLE = (client.ApiException, aiohttp.ClientError, TimeoutError, OSError)


@dataclass(frozen=True, kw_only=True)
class LeaseSettings:
    """The Lease and its times."""

    namespace: str
    name: str = "lite-llm-operator"
    identity: str
    """Of this process; no other may have it."""
    duration_seconds: float = 15.0
    """After so much silence another takes over."""

    @property
    def renew_seconds(self) -> float:
        """Between renewals: two may fail before the lease is over."""
        return self.duration_seconds / 4

    @property
    def deadline_seconds(self) -> float:
        """Without a renewal for so long the holder stops by itself, before another begins."""
        return self.duration_seconds * 2 / 3


@asynccontextmanager
async def leading(
    cluster: Cluster, settings: LeaseSettings, *, on_standby: Callable[[], None]
) -> AsyncIterator[asyncio.Event]:
    """Wait until elected, lead while the block runs, then resign; gives what is set on loss.

    ``on_standby`` is called once it is known that another leads.
    """
    lease = await _elected(cluster, settings, on_standby)
    log.info("elected", lease=settings.name, cause=settings.identity)
    lost, keeper = asyncio.Event(), _Keeper(cluster, settings, lease)
    keeping = asyncio.create_task(keeper.keep(lost))
    try:
        yield lost
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        if not lost.is_set():
            await keeper.resign()


async def _elected(
    cluster: Cluster, settings: LeaseSettings, on_standby: Callable[[], None]
) -> Body:
    seen: tuple[str, float] | None = None  # the record's version, and when we first saw it
    while True:
        try:
            lease = await cluster.lease(settings.namespace, settings.name)
            if lease is None:
                return await cluster.write_lease(_taken(settings, None))
            spec, version = lease.get("spec", {}), lease["metadata"]["resourceVersion"]
            if seen is None or seen[0] != version:
                seen = (version, monotonic())
            duration = spec.get("leaseDurationSeconds", settings.duration_seconds)
            if not spec.get("holderIdentity") or monotonic() - seen[1] > duration:
                return await cluster.write_lease(_taken(settings, lease))
            on_standby()
        except Conflict:
            log.debug("another was elected", lease=settings.name)
        except _TROUBLE as error:
            if isinstance(error, client.ApiException) and error.status in (401, 403):
                raise InvalidSettings(
                    f"the operator may not use leases in {settings.namespace}",
                    where="service account",
                    remedy="bind it to a role that may get, create and update them there",
                ) from error
            log.warning("the lease can't be read", lease=settings.name, error=str(error))
        await asyncio.sleep(settings.renew_seconds / 2)


def _taken(settings: LeaseSettings, before: Body | None) -> dict[str, Any]:
    """The Lease, held by us from now on."""
    now = _now()
    spec: dict[str, Any] = dict(before.get("spec", {})) if before else {}
    changes = spec.get("leaseTransitions", 0) + (1 if before else 0)
    spec |= {
        "holderIdentity": settings.identity,
        "leaseDurationSeconds": max(1, round(settings.duration_seconds)),
        "acquireTime": now,
        "renewTime": now,
        "leaseTransitions": changes,
    }
    metadata: dict[str, Any] = {"name": settings.name, "namespace": settings.namespace}
    if before:
        metadata = dict(before["metadata"])
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": spec,
    }


class _Keeper:
    """Renews what was won."""

    def __init__(self, cluster: Cluster, settings: LeaseSettings, lease: Body) -> None:
        self._cluster = cluster
        self._settings = settings
        self._lease = lease

    async def keep(self, lost: asyncio.Event) -> None:
        """Renew until it is over; ``lost`` is then set, strictly before another can be elected."""
        settings, renewed = self._settings, monotonic()
        while (left := renewed + settings.deadline_seconds - monotonic()) > 0:
            await asyncio.sleep(min(settings.renew_seconds, left))
            sent = monotonic()
            try:
                async with asyncio.timeout(settings.renew_seconds):
                    await self._write(renewTime=_now())
                renewed = sent
            except Conflict:
                if not await self._is_still_ours():
                    break
            except _TROUBLE as error:
                log.warning("the lease can't be renewed", lease=settings.name, error=str(error))
        log.warning("deposed", lease=settings.name)
        lost.set()

    async def _is_still_ours(self) -> bool:
        """A renewal whose answer was lost has changed the version that we know."""
        try:
            lease = await self._cluster.lease(self._settings.namespace, self._settings.name)
        except _TROUBLE:
            return True  # nobody knows: the deadline decides
        if lease is None or lease["spec"].get("holderIdentity") != self._settings.identity:
            return False
        self._lease = lease
        return True

    async def resign(self) -> None:
        """Let the next one begin at once."""
        with suppress(Conflict, *_TROUBLE):
            await self._write(holderIdentity="", leaseDurationSeconds=1, renewTime=_now())

    async def _write(self, **changes: Any) -> None:
        lease = {**self._lease, "spec": {**self._lease["spec"], **changes}}
        self._lease = await self._cluster.write_lease(lease)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
