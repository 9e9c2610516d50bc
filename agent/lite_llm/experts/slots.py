"""Memory for experts, cut into slots of one size: hot ones, which products run on, and warm ones.

Legend: B bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.contracts.resources import format_size
from lite_llm.experts.bank import ExpertWeights
from lite_llm.experts.crew import Job
from lite_llm.experts.record_layout import RecordLayout
from lite_llm.experts.stored import bytes_of
from lite_llm.tiers import Arena, Copier, HostMemory, Lease, Memory, copier_to, device_memory
from lite_llm.tiers.extents import aligned_up
from lite_llm.tiers.memory import cupy


@dataclass
class Buffers:
    """A fetching thread's own memory."""

    record: memoryview
    """For a record that has no warm slot."""
    scratch: memoryview
    """For chunks around pieces of it."""


FetchJob = Job[Buffers]


@dataclass(eq=False)
class Slot:
    """A place for one expert, and whose bytes it holds."""

    memory: Any
    """A memoryview, or a device's array."""
    content: int | None = None
    """The expert whose bytes are there, complete and verified; set by the job that brings them."""
    jobs: list[FetchJob] = field(default_factory=list)
    """That read or write these bytes, or will."""

    @property
    def is_busy(self) -> bool:
        """Whether a job is at it, or will be."""
        self.jobs = [job for job in self.jobs if not job.is_over]
        return bool(self.jobs)

    def vacated(self) -> list[FetchJob]:
        """Cancel the jobs that have not begun; those that run, to be waited for."""
        return [job for job in self.jobs if not job.cancel()]


@dataclass(eq=False)
class HotSlot(Slot):
    """Where an expert runs."""

    coming: tuple[int, FetchJob] | None = None
    """The last job that was to fill it."""
    fence: Any = None
    """The device's event behind the last product that used it; None without a device."""
    _seen: tuple[RecordLayout, ExpertWeights] | None = None

    def holds(self, expert: int) -> bool:
        """Whether the expert can run from here now."""
        return self.content == expert and not (self.jobs and self.is_busy)

    def arriving(self, expert: int) -> FetchJob | None:
        """The job that brings the expert, unless it is over."""
        if self.coming is None or self.coming[0] != expert or self.coming[1].is_over:
            return None
        return self.coming[1]

    def weights(self, layout: RecordLayout) -> ExpertWeights:
        """What lies here, as the products want it."""
        if self._seen is None or self._seen[0] is not layout:
            self._seen = layout, layout.weights(bytes_of(self.memory))
        return self._seen[1]

    @property
    def is_ours(self) -> bool:
        """Whether it lies in the host's memory, where any thread may write to it."""
        return isinstance(self.memory, memoryview)

    def used(self) -> None:
        """A product that reads it was launched."""
        if not self.is_ours:
            self.fence = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
            self.fence.record()


class SlotMemory:
    """One arena as equal slots."""

    def __init__(self, name: str, memory: Memory, slot_bytes: int) -> None:
        self.slot_bytes = slot_bytes
        self.copier: Copier = copier_to(memory)
        self.arena = Arena(name, memory)
        self._lease: Lease = self.arena.allocate(memory.num_bytes, owner=name).write()

    def slots(self, first: int, count: int = 1) -> Any:
        """The bytes of adjacent slots."""
        return self._lease.view[first * self.slot_bytes : (first + count) * self.slot_bytes]

    @property
    def num_slots(self) -> int:
        return self.arena.budget_bytes // self.slot_bytes

    def close(self) -> None:
        """Raises :class:`StillLeased` while tensors over slots are alive."""
        self._lease.release()
        self.arena.close()


def hot_memory(num_bytes: int, slot_bytes: int, *, least_slots: int, on_device: bool) -> SlotMemory:
    """On the device or in ordinary memory; whole slots within ``num_bytes``."""
    slot_bytes = aligned_up(slot_bytes)
    room = _whole_slots("hot_bytes", num_bytes, slot_bytes, least_slots)
    memory = device_memory(room) if on_device else HostMemory(room, lock=False)
    return SlotMemory("hot experts", memory, slot_bytes)


def warm_memory(num_bytes: int, slot_bytes: int, *, least_slots: int) -> SlotMemory:
    """In host memory, locked where a device copies from it."""
    slot_bytes = aligned_up(slot_bytes)
    room = _whole_slots("warm_bytes", num_bytes, slot_bytes, least_slots)
    return SlotMemory("warm experts", HostMemory(room, lock=cupy() is not None), slot_bytes)


def _whole_slots(where: str, num_bytes: int, slot_bytes: int, least: int) -> int:
    if num_bytes < least * slot_bytes:
        raise InvalidSettings(
            f"{format_size(num_bytes)} hold fewer than {least} experts of "
            f"{format_size(slot_bytes)}",
            where=where,
            remedy=f"give them at least {format_size(least * slot_bytes)}",
        )
    return num_bytes // slot_bytes * slot_bytes
