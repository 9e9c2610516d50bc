"""The node's memory among its models: whoever has no room waits, and those that can give way do."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog

from lite_llm.agent.changes import Changes
from lite_llm.agent.room import Decision, Fits, MakeRoom, Never, Occupant, Wait, decide
from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import OutOfMemory

log = structlog.get_logger(__name__)


class Tenant(Protocol):
    """A model, as memory sees it."""

    ref: ModelRef

    def occupant(self, num_bytes: int) -> Occupant:
        """What it is now, having ``num_bytes``."""

    def give_way(self, reason: str) -> None:
        """Finish what runs, take nothing new, and give the memory back."""


@dataclass(frozen=True, eq=False)
class _Claim:
    tenant: Tenant
    num_bytes: int
    since: float


class Memory:
    """One budget for all workers. First come, first served: nobody is overtaken for ever."""

    def __init__(self, budget_bytes: int, changes: Changes, *, patience_seconds: float) -> None:
        """``changes`` are of everything that decisions depend on."""
        self.budget_bytes = budget_bytes
        self._changes = changes
        self._patience_seconds = patience_seconds
        self._held: dict[ModelRef, tuple[Tenant, int]] = {}
        self._waiting: deque[_Claim] = deque()

    @property
    def used_bytes(self) -> int:
        """Of the budget."""
        return sum(num_bytes for _, num_bytes in self._held.values())

    @asynccontextmanager
    async def room(
        self, tenant: Tenant, num_bytes: int, tell: Callable[[str], None]
    ) -> AsyncIterator[None]:
        """Memory for as long as the block runs; ``tell`` hears in words what it waits for.

        :class:`OutOfMemory` where it can never be had.
        """
        claim = _Claim(tenant, num_bytes, time.monotonic())
        self._waiting.append(claim)
        try:
            await self._admitted(claim, tell)
            self._held[tenant.ref] = (tenant, num_bytes)
        finally:
            self._waiting.remove(claim)
            self._changes.notify()
        try:
            yield
        finally:
            del self._held[tenant.ref]
            self._changes.notify()

    async def _admitted(self, claim: _Claim, tell: Callable[[str], None]) -> None:
        patience = asyncio.get_running_loop().call_later(
            self._patience_seconds, self._changes.notify
        )
        try:
            while True:
                version = self._changes.version
                decision = self._decision(claim)
                if isinstance(decision, Never):
                    raise OutOfMemory(
                        f"{claim.tenant.ref}: {decision.reason}",
                        where=str(claim.tenant.ref),
                        remedy="raise the agent's memory budget, or load it on a larger node",
                    )
                if self._waiting[0] is not claim:
                    tell(f"waiting for memory, after {self._waiting[0].tenant.ref}")
                elif self._has_room(claim, decision, tell):
                    return
                await self._changes.beyond(version)
        finally:
            patience.cancel()

    def _has_room(
        self, claim: _Claim, decision: Fits | MakeRoom | Wait, tell: Callable[[str], None]
    ) -> bool:
        match decision:
            case Fits():
                return True
            case MakeRoom(leaving):
                tell(f"waiting for the memory of {', '.join(map(str, leaving))}")
                for ref in leaving:
                    log.info("model gives way", model=str(ref), cause=str(claim.tenant.ref))
                    self._held[ref][0].give_way(f"gave way to {claim.tenant.ref}")
            case Wait(reason):
                tell(reason)
        return False

    def _decision(self, claim: _Claim) -> Decision:
        return decide(
            claim.num_bytes,
            budget_bytes=self.budget_bytes,
            occupants=[tenant.occupant(size) for tenant, size in self._held.values()],
            patient=time.monotonic() - claim.since < self._patience_seconds,
        )
