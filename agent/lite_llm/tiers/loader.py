"""Loads: each chunk from the nearest place that has it, delivered layer by layer as it arrives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from lite_llm.contracts.errors import InvalidRequest
from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.manifest import FileRecord, Manifest
from lite_llm.contracts.tiers import Medium
from lite_llm.telemetry.metrics import Metrics
from lite_llm.tiers.disk_reader import DiskReader
from lite_llm.tiers.disk_tier import DiskTier
from lite_llm.tiers.host_tier import HostRun, HostTier
from lite_llm.tiers.incoming import IncomingFile
from lite_llm.tiers.layer import Layer
from lite_llm.tiers.load import Load
from lite_llm.tiers.measures import Measures
from lite_llm.tiers.plan import LoadPlan, plan_load
from lite_llm.tiers.source import LocalSource, Source
from lite_llm.tiers.turns import Turns

FETCH_SLOTS = 16
"""Ranged GETs at a time, all loads together."""


class Loader:
    """What all loads of an agent share: memory, reading threads, disks and wires."""

    def __init__(
        self,
        host: HostTier,
        reader: DiskReader,
        *,
        disks: DiskTier | None = None,
        metrics: Metrics | None = None,
        fetch_slots: int = FETCH_SLOTS,
    ) -> None:
        """Without ``disks``, what comes from a store is kept in memory only."""
        self._host = host
        self._reader = reader
        self._disks = disks
        self._measures = Measures(metrics)
        # Twice the threads: each finds its next request waiting when it is done with one.
        self._disk_wire = Turns(2 * reader.threads)
        self._store_wire = Turns(fetch_slots)

    @asynccontextmanager
    async def load(
        self,
        manifest: Manifest,
        sources: Sequence[Source | LocalSource],
        *,
        dense: bool = True,
        wants_expert: Callable[[ExpertKey], bool] = lambda key: True,
        prefetch: bool = False,
    ) -> AsyncIterator[Load]:
        """Start loading; leaving the block stops it and frees what was not completed.

        ``sources`` are the origin and its mirrors, which a local origin does not need. Memory for
        the whole load is taken at once: :class:`OutOfMemory` here means that nothing was evicted.
        ``prefetch`` gives way to every other load, until somebody waits for a layer of it.
        """
        if not sources:
            raise InvalidRequest("a load needs a source", where="load", remedy="name one")
        plan = plan_load(manifest, dense=dense, wants_expert=wants_expert)
        async with AsyncExitStack() as held:
            files = {
                record.name: await self._open(record, sources, held)
                for record in dict.fromkeys(run.file for run in plan.runs)
            }
            runs = await self._hold(plan, sources, held)
            load = Load(
                plan, runs, files, self._disk_wire, self._store_wire, self._measures,
                prefetch=prefetch,
            )  # fmt: skip
            held.push_async_callback(load.close)
            load.start()
            yield load

    @asynccontextmanager
    async def expert(
        self, manifest: Manifest, sources: Sequence[Source | LocalSource], key: ExpertKey
    ) -> AsyncIterator[tuple[memoryview, ...]]:
        """The parts of one expert, from memory or by one read from wherever it is nearest."""
        if key not in manifest.expert_by_key:
            raise InvalidRequest(
                f"{manifest.model} has no expert {key}", where="expert", remedy="see `inspect`"
            )
        async with self.load(
            manifest, sources, dense=False, wants_expert=lambda other: other == key
        ) as load:
            layer: Layer = await load.layer(key.layer)
            yield layer.experts[key]

    async def _open(
        self,
        record: FileRecord,
        sources: Sequence[Source | LocalSource],
        held: AsyncExitStack,
    ) -> IncomingFile:
        origin = sources[0]
        file = IncomingFile(record, self._reader, self._measures)
        held.callback(file.close)
        if isinstance(origin, LocalSource):
            file.local = origin
            return file
        file.sources = [source for source in sources if not isinstance(source, LocalSource)]
        if self._disks is not None:
            file.disks = self._disks
            file.cached = await self._disks.hold(await _identity(record, origin), record)
            if file.cached is not None:
                held.push_async_callback(self._disks.let_go, file.cached)
        return file

    async def _hold(
        self, plan: LoadPlan, sources: Sequence[Source | LocalSource], held: AsyncExitStack
    ) -> list[HostRun]:
        identities = {
            record.name: await _identity(record, sources[0])
            for record in dict.fromkeys(run.file for run in plan.runs)
        }
        places = self._host.hold([(identities[run.file.name], run) for run in plan.runs])
        for place in places:
            held.callback(self._host.let_go, place)
            if place.is_complete:
                self._measures.found(Medium.DRAM)
        return places


async def _identity(record: FileRecord, source: Source | LocalSource) -> str:
    return record.sha256 or await source.identity(record.name)
