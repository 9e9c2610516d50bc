"""Who waits for memory, and who need not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from lite_llm.agent.changes import Changes
from lite_llm.agent.memory import Memory
from lite_llm.agent.room import Occupant
from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import OutOfMemory


@dataclass
class Busy:
    """A model that never rests."""

    ref: ModelRef
    told: asyncio.Event = field(default_factory=asyncio.Event)

    def occupant(self, num_bytes: int) -> Occupant:
        return Occupant(ref=self.ref, num_bytes=num_bytes, last_use=0.0, is_idle=False)

    def give_way(self, reason: str) -> None:
        raise AssertionError("all are patient")


async def test_what_never_fits_is_told_at_once_whoever_waits_before_it() -> None:
    memory = Memory(100, Changes(), patience_seconds=60.0)
    first, second, third = (Busy(ModelRef("default", name)) for name in "abc")

    async def wait(tenant: Busy, num_bytes: int) -> None:
        async with memory.room(tenant, num_bytes, lambda _: tenant.told.set()):
            pass

    async with asyncio.timeout(20), memory.room(first, 80, print):
        waiting = asyncio.create_task(wait(second, 50))
        await second.told.wait()
        with pytest.raises(OutOfMemory, match="do not fit into 100 B"):
            await wait(third, 101)
        assert not waiting.done()
        waiting.cancel()
