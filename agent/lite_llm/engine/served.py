"""A loaded model in service: its cache, its engine, and what turns requests into answers."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import structlog

from lite_llm.contracts import TierSet
from lite_llm.contracts.errors import OutOfMemory
from lite_llm.contracts.tiers import Medium
from lite_llm.engine.answer import Answer
from lite_llm.engine.batching import BatchSettings
from lite_llm.engine.chat import ChatRenderer
from lite_llm.engine.compute_thread import ComputeThread, Job
from lite_llm.engine.device import room_for_pages
from lite_llm.engine.engine import Engine
from lite_llm.engine.measures import Measures
from lite_llm.engine.model import Model
from lite_llm.engine.request import Request
from lite_llm.engine.requests import request_from_proto
from lite_llm.engine.sampling import Sampling
from lite_llm.engine.step_loop import StepLoop
from lite_llm.engine.stopping import Limits
from lite_llm.engine.tier_grants import TierGrants
from lite_llm.experts import ExpertMeasures, ExpertSettings
from lite_llm.kvcache import DiskPages, KvCache, PageFormat
from lite_llm.kvcache.groups import group_layers
from lite_llm.proto.v1.generate_pb2 import GenerateStart, TierSelection
from lite_llm.telemetry import Metrics, Program, names

MEMORY_SHARE = 8  # a worker's cache takes one part in so many of the machine's memory, unless told

LEAST_ROOM = 16  # tokens; with less there is nothing to serve

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """How a worker serves its model."""

    batch: BatchSettings = field(default_factory=BatchSettings)
    kv_bytes: int | None = None
    """Of the key-value cache; None: as much as the batch can use, and at most an eighth of the
    machine's memory, or what weights leave free of a GPU's."""
    kv_host_bytes: int = 0
    """Where sequences that were set back wait; without it they are computed anew."""
    kv_disk: DiskPages | None = None
    """Where prefixes are kept that memory has no more room for; None: they are forgotten."""
    kv_old_pages: PageFormat = PageFormat.EXACT
    """Of pages in host memory and on disk. With another than the exact one they hold more, and an
    answer depends on what was cached."""
    experts: ExpertSettings | None = None
    """Budgets for experts that are fetched as they are asked for; None: all are in memory."""
    notes: Path | None = None
    """Directory of notes on which of a checkpoint's bytes were verified, for the next start."""
    device: str = "cpu"
    """That the model computes on: ``cpu`` or ``cuda``. Weights and cache lie there."""
    page_tokens: int = 16


class Served:
    """Use with ``async with``, in the event loop; its engine runs in the compute thread."""

    def __init__(
        self,
        model: Model,
        settings: ServingSettings,
        compute: ComputeThread,
        name: str,
        tier_set: TierSet | None = None,
    ) -> None:
        """``tier_set``: what was declared; None: the tiers that are built into the checkpoint.

        Raises ``OutOfMemory`` where the cache has no room for a sequence, ``InvalidSettings`` for a
        TierSet that is not this model's, and ``StorageFailed`` where the disk takes no file.
        """
        self._tiers = TierGrants(model, tier_set)
        self.metrics = Metrics(names.exported_by(Program.AGENT))
        experts = None
        if model.experts is not None:
            experts = ExpertMeasures(model.experts, self.metrics, name)
        self.measures = Measures(self.metrics, name, experts)
        self._model = model
        self._compute = compute
        self._closing = AsyncExitStack()
        kv = KvCache(
            model.decoder.kv_layout,
            device_bytes=settings.kv_bytes or _kv_bytes(model, settings),
            host_bytes=settings.kv_host_bytes,
            disk=settings.kv_disk,
            page_tokens=settings.page_tokens,
            device=model.device,
            old_pages=settings.kv_old_pages,
            deterministic=settings.kv_old_pages is PageFormat.EXACT,
        )
        self._closing.callback(kv.close)
        self.room = _room(model, kv, settings)
        """Tokens that a sequence can hold, prompt and answer together."""
        if self.room < LEAST_ROOM:
            kv.close()
            raise OutOfMemory(
                f"the key-value cache has room for sequences of {self.room} tokens",
                where="kv_bytes",
                remedy="give it more memory",
            )
        self.engine = Engine(StepLoop(model, kv, settings.batch, self.measures))
        kv.on_arrival = self.engine.wake
        self._renderer = ChatRenderer(model.template)

    async def request(self, start: GenerateStart) -> Request:
        """What ``start`` asks for, checked; raises what is wrong with it."""
        conversation = None
        if start.WhichOneof("prompt") == "chat":
            now = start.created_at or int(time.time())
            conversation = await self._renderer.prompt(start.chat, now=now)
        # In a thread: a long prompt takes the tokenizer a while.
        return await asyncio.to_thread(
            request_from_proto,
            start,
            self._model,
            room=self.room,
            tiers=self._tiers,
            conversation=conversation,
        )

    async def warm_up(self) -> None:
        """Run one token, so that no request pays for what is set up at first use."""
        request = Request(
            prompt=(0,),
            sampling=Sampling(temperature=0),
            limits=Limits(max_tokens=1),
            tiers=self._tiers.grant(TierSelection()),
        )
        async for _ in self.engine.submit(request):
            pass

    def answer(self, start: GenerateStart, request: Request) -> Answer:
        """The stream of events for ``request``."""
        return Answer(start, request, self._model.tokenizer, self.measures)

    def expert_media(self) -> list[tuple[int, str, bytes]]:
        """By layer and tier, of each expert in order of its key a :class:`Medium` in one byte."""
        manifest = self._model.manifest
        names = {tier.id: tier.name for tier in manifest.tiers}
        if self._model.experts is not None:
            found = self._model.experts.where()
        else:  # all lie where the model computes
            near = bytes([Medium.GPU])
            counts = Counter((each.key.layer, each.key.tier) for each in manifest.experts)
            found = [(*place, near * count) for place, count in sorted(counts.items())]
        return [(layer, names.get(tier, str(tier)), media) for layer, tier, media in found]

    async def __aenter__(self) -> Self:
        await self._closing.enter_async_context(self._renderer)
        running = asyncio.create_task(_watch(self._compute.submit(self.engine.run())))
        self._closing.push_async_callback(asyncio.wait, [running])
        self._closing.callback(self.engine.close)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()


async def _watch(job: Job[None]) -> None:
    try:
        async for _ in job:
            pass
    except Exception:
        # An engine that stands still must not look alive: the agent starts another worker.
        log.exception("the engine failed")
        os._exit(os.EX_SOFTWARE)


def _kv_bytes(model: Model, settings: ServingSettings) -> int:
    layout, size = model.decoder.kv_layout, settings.page_tokens
    groups = group_layers(layout, size)
    page_bytes = max(group.elements for group in groups) * layout.dtype.itemsize
    pages = -(-model.context_tokens // size) * len(groups)
    most = settings.batch.max_sequences * pages * page_bytes
    if model.device.type == "cuda":
        return min(most, room_for_pages(model.device))
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(most, machine // MEMORY_SHARE)


def _room(model: Model, kv: KvCache, settings: ServingSettings) -> int:
    """The context, or the longest sequence that the cache holds."""
    low, high = 0, model.context_tokens
    while low < high:
        middle = (low + high + 1) // 2
        fits = kv.pages_for(middle, step_tokens=settings.batch.step_tokens) <= kv.num_pages
        low, high = (middle, high) if fits else (low, middle - 1)
    return low
