"""A lease as its holder sees it: over strictly earlier than the store thinks.

The store counts a lease's time from when it receives a renewal, the holder from when it sent it, so
the holder's deadline comes first whatever the network does in between.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from lite_llm.contracts.errors import InvalidRequest, LeaseLost, LiteLLMError

RENEWALS_PER_TTL = 3  # two may be lost before the lease is
MARGIN = 0.1  # of the TTL: time for the holder's own wake-up, and for clocks that run unevenly
RETRY = 0.05  # of the TTL, between renewals that fail at once

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Grant:
    """What the store says about a lease."""

    lease_id: int
    ttl_seconds: float
    """From the moment the store granted or renewed it; not positive: it is over."""


class Grantor(Protocol):
    """The store's side of leases. The calls raise ``StoreUnavailable``."""

    async def grant_lease(self, ttl_seconds: float) -> Grant:
        """A new lease of at least ``ttl_seconds``."""
        ...

    async def renew_lease(self, grant: Grant) -> Grant:
        """Start the lease's time anew, if it still runs."""
        ...

    async def revoke_lease(self, lease_id: int) -> None:
        """End a lease now and delete what is tied to it; nothing if it is over already."""
        ...


class Lease:
    """Ownership for a time; while it is alive, what it guards belongs to its holder alone."""

    def __init__(self, grant: Grant, *, sent: float) -> None:
        """``sent``: when the request for ``grant`` was sent, in seconds of the monotonic clock."""
        self.id = grant.lease_id
        self._lost = asyncio.Event()
        self._renewed(grant, sent)

    def _renewed(self, grant: Grant, sent: float) -> None:
        self.grant = grant
        self._sent = sent
        self._deadline = sent + grant.ttl_seconds * (1 - MARGIN)

    @property
    def is_alive(self) -> bool:
        """True while no one else can own what this guards, even if the event loop stood still."""
        return not self._lost.is_set() and monotonic() < self._deadline

    @property
    def remaining_seconds(self) -> float:
        """Until the lease is over if no renewal succeeds; 0 when it is."""
        return max(0.0, self._deadline - monotonic()) if self.is_alive else 0.0

    async def wait_lost(self) -> None:
        """Return when the lease is over, before anyone else can own what it guards."""
        await self._lost.wait()

    def check(self) -> None:
        """Raise ``LeaseLost`` unless the lease is alive."""
        if not self.is_alive:
            raise LeaseLost(
                "the lease is over", where=f"lease {self.id:x}", remedy="take a new one"
            )

    def forfeit(self) -> None:
        """Treat the lease as over from now on, and renew it no more."""
        self._lost.set()

    async def _keep(self, grantor: Grantor) -> None:
        try:
            await asyncio.sleep(self._until_renewal())
            while (remaining := self.remaining_seconds) > 0:
                sent = monotonic()
                try:
                    async with asyncio.timeout(remaining):
                        grant = await grantor.renew_lease(self.grant)
                except (TimeoutError, LiteLLMError) as error:
                    log.warning(
                        "lease not renewed",
                        extra={"lease": self.id, "remaining_s": remaining, "error": repr(error)},
                    )
                    pause = min(self.grant.ttl_seconds * RETRY, self.remaining_seconds)
                else:
                    if grant.ttl_seconds <= 0:
                        break
                    self._renewed(grant, sent)
                    pause = self._until_renewal()
                await asyncio.sleep(pause)
            log.warning("lease lost", extra={"lease": self.id})
        finally:
            self.forfeit()

    def _until_renewal(self) -> float:
        due = self._sent + self.grant.ttl_seconds / RENEWALS_PER_TTL
        return min(max(0.0, due - monotonic()), self.remaining_seconds)


@asynccontextmanager
async def held_lease(grantor: Grantor, ttl_seconds: float) -> AsyncIterator[Lease]:
    """Take a lease, renew it while the block runs, and give it back."""
    if not (math.isfinite(ttl_seconds) and ttl_seconds > 0):
        raise InvalidRequest(f"a lease of {ttl_seconds} seconds", remedy="use a positive number")
    sent = monotonic()
    lease = Lease(await grantor.grant_lease(ttl_seconds), sent=sent)
    keeper = asyncio.create_task(lease._keep(grantor), name=f"lease {lease.id:x}")
    try:
        yield lease
    finally:
        was_alive = lease.is_alive
        lease.forfeit()  # before it is given back: whoever asks from now on must hear "no"
        await stop(keeper)
        if was_alive:
            try:
                await grantor.revoke_lease(lease.id)
            except LiteLLMError as error:  # it ends by itself soon
                log.warning("lease not revoked", extra={"lease": lease.id, "error": repr(error)})


async def stop(task: asyncio.Task[None]) -> None:
    """Cancel ``task``, wait for its end, and raise what it failed with before, if anything."""
    task.cancel()
    await asyncio.wait({task})  # and not `await task`: that could not tell its end from our own
    if not task.cancelled():
        task.result()
