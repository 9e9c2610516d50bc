"""What this orchestrator sees of requests, told to the one that leads."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from lite_llm.contracts import LiteLLMError, ModelRef
from lite_llm.contracts.keyspace import DoorKey, key_of
from lite_llm.dispatch.orders import Orders
from lite_llm.metastore import Lease, Store
from lite_llm.placement import ClusterView, Observed
from lite_llm.proto.v1.orchestrator_pb2 import Demand, DoorStatus, ScalingState
from lite_llm.wire import dumps, ref_to_proto

log = structlog.get_logger(__name__)


class Uses:
    """Of models."""

    def __init__(self, name: str, views: Observed[ClusterView], orders: Orders) -> None:
        """``name`` is this orchestrator's."""
        self._name = name
        self._views = views
        self._orders = orders
        self._used: set[ModelRef] = set()
        self._arrived: Counter[ModelRef] = Counter()
        self._held: Counter[ModelRef] = Counter()
        self._told = b""

    def arrived(self, model: ModelRef) -> None:
        """A request for it came; nobody counts those for what does not exist."""
        if model in self._views.value.models:
            self._arrived[model] += 1

    def note(self, model: ModelRef) -> None:
        """Somebody uses it now."""
        self._used.add(model)

    @contextmanager
    def holding(self, model: ModelRef) -> Iterator[None]:
        """A request waits for the model to load while the block runs."""
        self._held[model] += 1
        try:
            yield
        finally:
            self._held[model] -= 1
            if not self._held[model]:
                del self._held[model]

    def status(self) -> DoorStatus:
        """What is told."""
        known = self._views.value.models
        self._arrived = Counter({ref: n for ref, n in self._arrived.items() if ref in known})
        demands = [
            Demand(model=ref_to_proto(model), arrived=count, held=self._held[model])
            for model, count in sorted(self._arrived.items())
        ]
        return DoorStatus(name=self._name, demands=demands)

    async def tell(self, store: Store, *, lease_seconds: float, every_seconds: float) -> None:
        """Again and again, whatever becomes of the store meanwhile."""
        while True:
            try:
                async with store.lease(lease_seconds) as lease:
                    self._told = b""
                    while lease.is_alive:
                        await self._tell_once(store, lease)
                        await asyncio.sleep(every_seconds)
            except LiteLLMError as error:
                log.warning("uses not told", error=str(error))
            await asyncio.sleep(every_seconds)

    async def _tell_once(self, store: Store, lease: Lease) -> None:
        told = dumps(self.status())
        if told != self._told:
            await store.put(key_of(DoorKey(self._name)), told, lease=lease)
            self._told = told
        used, self._used = self._used, set()
        view, now = self._views.value, time.time()
        for model in used:
            spec, state = view.models.get(model), view.scalings.get(model, ScalingState())
            if spec is None or not spec.scaling.idle_seconds:
                continue
            if abs(now - state.used_at) >= max(1.0, spec.scaling.idle_seconds / 4):
                await self._orders.note(model, lambda state: setattr(state, "used_at", now))
