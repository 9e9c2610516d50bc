"""The room in which requests wait for a model to load: bounded, so that waiting stays cheap."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import Overloaded
from lite_llm.telemetry import Metrics, names

OVERHEAD_BYTES = 25 << 10  # of a held request beyond its body, measured: docs/benchmarks/gateway.md
RETRY_SECONDS = 5.0  # where no load tells how long it takes: loads take seconds to minutes


@dataclass(frozen=True, kw_only=True)
class HoldLimits:
    """Of one orchestrator."""

    requests: int = 4096
    tenant_requests: int = 2048
    """Of one tenant, so that one herd leaves room for others."""
    num_bytes: int = 1 << 30
    seconds: float = 600.0
    """Of one request. OpenAI's client waits 600 s."""


class HoldingRoom:
    """Gives places; made by whoever dispatches."""

    def __init__(self, limits: HoldLimits, metrics: Metrics) -> None:
        self.limits = limits
        self._metrics = metrics
        self._bytes = 0
        self._requests: Counter[str] = Counter()

    @contextmanager
    def place(
        self,
        model: ModelRef,
        tenant: str,
        num_bytes: int,
        *,
        has_begun: bool,
        remaining_seconds: float,
    ) -> Iterator[None]:
        """For one request, of ``num_bytes``; :class:`Overloaded` if there is none.

        An answer that ``has_begun`` always finds one. ``remaining_seconds`` until the model is
        there, if above 0, is when to come back.
        """
        num_bytes += OVERHEAD_BYTES
        if not has_begun and (reason := self._full(tenant, num_bytes)):
            limit, words = reason
            self._metrics[names.HELD_REJECTED_TOTAL].labels(reason=limit).inc()
            raise Overloaded(
                f"{words} wait for models to load already",
                where=str(model),
                remedy="try again when the model is there",
                retry_after=max(remaining_seconds, RETRY_SECONDS)
                if math.isfinite(remaining_seconds)
                else RETRY_SECONDS,
            )
        self._requests[tenant] += 1
        self._bytes += num_bytes
        gauge = self._metrics[names.HELD_REQUESTS].labels(model=str(model))
        gauge.inc()
        self._metrics[names.HELD_BYTES].labels().set(self._bytes)
        try:
            yield
        finally:
            gauge.dec()
            self._bytes -= num_bytes
            self._metrics[names.HELD_BYTES].labels().set(self._bytes)
            self._requests[tenant] -= 1
            if not self._requests[tenant]:
                del self._requests[tenant]

    def _full(self, tenant: str, num_bytes: int) -> tuple[str, str] | None:
        """Which limit is reached, by its label and in words."""
        limits = self.limits
        if self._requests.total() >= limits.requests:
            return "count", f"{limits.requests} requests"
        if self._requests[tenant] >= limits.tenant_requests:
            return "count", f"{limits.tenant_requests} requests of this tenant"
        if self._bytes + num_bytes > limits.num_bytes:
            return "bytes", f"{self._bytes} bytes of requests"
        return None
