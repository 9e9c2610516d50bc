"""Lets requests in: within their tenant's limits, and in their tenant's turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic

from lite_llm.contracts.errors import QuotaExceeded
from lite_llm.telemetry import Metrics, names
from lite_llm.tenants.fairness import FairQueue
from lite_llm.tenants.tenant import Tenant

RETRY_SECONDS = 1.0


@dataclass
class _Account:
    """Of one tenant."""

    allowance: float
    refilled_at: float
    running: int = 0


class Admission:
    """Of one orchestrator: with several, a tenant has its limits at each."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        capacity: int,
        max_waiting: int,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """``capacity`` requests at a time; ``max_waiting`` more wait for their turn."""
        self._metrics = metrics
        self._queue = FairQueue(capacity, max_waiting)
        self._clock = clock
        self._accounts: dict[str, _Account] = {}

    @asynccontextmanager
    async def admitted(self, tenant: Tenant, cost: float = 1.0) -> AsyncIterator[None]:
        """A request of the tenant while the block runs; ``cost`` is how many answers it wants.

        Raises ``QuotaExceeded`` and ``Overloaded``.
        """
        account = self._accounts.setdefault(
            tenant.name, _Account(max(tenant.requests_per_minute or 0.0, 1.0), self._clock())
        )
        self._check_concurrency(tenant, account)
        self._check_rate(tenant, account)
        account.running += 1
        try:
            async with self._queue.turn(tenant.name, tenant.weight, cost):
                yield
        finally:
            account.running -= 1

    def _check_concurrency(self, tenant: Tenant, account: _Account) -> None:
        most = tenant.concurrent_requests
        if most is not None and account.running >= most:
            raise self._refused(tenant, "concurrency", f"{most} requests at a time", RETRY_SECONDS)

    def _check_rate(self, tenant: Tenant, account: _Account) -> None:
        rate = tenant.requests_per_minute
        if rate is None:
            return
        now, per_second = self._clock(), rate / 60
        most = max(rate, 1.0)
        account.allowance = min(most, account.allowance + (now - account.refilled_at) * per_second)
        account.refilled_at = now
        if account.allowance < 1:
            wait = (1 - account.allowance) / per_second
            raise self._refused(tenant, "rate", f"{rate:g} requests a minute", wait)
        account.allowance -= 1

    def _refused(self, tenant: Tenant, limit: str, words: str, wait: float) -> QuotaExceeded:
        self._metrics[names.QUOTA_REJECTED_TOTAL].labels(tenant=tenant.name, limit=limit).inc()
        return QuotaExceeded(
            f"{tenant.name} has used up its {words}",
            where="tenant",
            remedy="slow down, or ask for a higher limit",
            retry_after=wait,
        )
