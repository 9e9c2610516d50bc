"""Loads: each chunk from the nearest place that has it, delivered layer by layer as it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import structlog

from lite_llm.contracts.errors import InvalidRequest, OutOfMemory
from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.manifest import FileRecord, Manifest
from lite_llm.stores import LocalSource, Source
from lite_llm.telemetry.metrics import Metrics
from lite_llm.tiers.device_tier import DeviceTier
from lite_llm.tiers.disk_reader import DiskReader
from lite_llm.tiers.disk_tier import DiskTier
from lite_llm.tiers.incoming import IncomingFile
from lite_llm.tiers.layer import Layer
from lite_llm.tiers.load import Load, Places, Shared
from lite_llm.tiers.mapped_file import MappedFile, mappings
from lite_llm.tiers.measures import Measures
from lite_llm.tiers.memory_tier import HeldRun, HostTier
from lite_llm.tiers.plan import LoadPlan, Run, plan_expert, plan_load
from lite_llm.tiers.turns import Turns
from lite_llm.tiers.verified import VerifiedChunks

log = structlog.get_logger(__name__)

FETCH_SLOTS = 16
"""Ranged GETs at a time, all loads together."""


class Loader:
    """What all loads of an agent share: memory, reading threads, disks and wires."""

    def __init__(
        self,
        host: HostTier,
        reader: DiskReader,
        *,
        device: DeviceTier | None = None,
        disks: DiskTier | None = None,
        metrics: Metrics | None = None,
        node: str = "",
        fetch_slots: int = FETCH_SLOTS,
        map_cached: bool = True,
        notes: Path | None = None,
    ) -> None:
        """With a ``device`` layers lie there, and host memory is on the way and keeps a copy.

        Without ``disks``, what comes from a store is kept in memory only. ``map_cached`` serves
        local files that the page cache has from there (see :mod:`mapped_file`), at no cost to the
        budget; ``notes`` is where it is noted down which of them were verified, for the loaders of
        other processes (:class:`VerifiedChunks`). ``node`` is a label of the metrics.
        """
        self._reader = reader
        self._disks = disks
        self._map_cached = map_cached
        self._verified = VerifiedChunks(notes)
        measures = Measures(metrics, node=node)
        # Twice the threads: each finds its next request waiting when it is done with one.
        disk_wire, store_wire = Turns(2 * reader.threads), Turns(fetch_slots)
        self._shared = Shared(host, device, disk_wire, store_wire, measures)
        for tier in (host, device, disks):
            if tier is not None:
                tier.measured_by(measures)

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

        ``sources`` are the origin and its mirrors. Memory for the whole load is taken at once
        where its layers are to lie: :class:`OutOfMemory` here means that nothing was evicted. To a
        device, what has no room in host memory passes through it piece by piece.
        ``prefetch`` gives way to every other load, until somebody waits for a layer of it.
        """
        plan = plan_load(manifest, dense=dense, wants_expert=wants_expert)
        async with self._started(plan, sources, prefetch=prefetch) as load:
            yield load

    @asynccontextmanager
    async def _started(
        self, plan: LoadPlan, sources: Sequence[Source | LocalSource], *, prefetch: bool
    ) -> AsyncIterator[Load]:
        if not sources:
            raise InvalidRequest("a load needs a source", where="load", remedy="name one")
        async with AsyncExitStack() as held:
            files = {
                record.name: await self._open(record, sources, held)
                for record in dict.fromkeys(run.file for run in plan.runs)
            }
            places = await self._hold(plan, sources, files, held)
            load = Load(plan, places, files, self._shared, prefetch=prefetch)
            held.push_async_callback(load.close)
            load.start()
            noting = asyncio.create_task(self._note(load))
            held.push_async_callback(asyncio.wait, [noting])
            held.callback(noting.cancel)
            yield load

    async def _note(self, load: Load) -> None:
        """As soon as it is known: a process that is killed later has no end to do it at."""
        try:
            await load.done()
        except Exception:  # whoever waits for the load hears of it
            log.debug("load ended early")
        finally:
            await asyncio.to_thread(self._verified.save)

    @asynccontextmanager
    async def expert(
        self, manifest: Manifest, sources: Sequence[Source | LocalSource], key: ExpertKey
    ) -> AsyncIterator[tuple[memoryview, ...]]:
        """The parts of one expert, from memory or by one read from wherever it is nearest."""
        if key not in manifest.expert_by_key:
            raise InvalidRequest(
                f"{manifest.model} has no expert {key}", where="expert", remedy="see `inspect`"
            )
        plan = plan_expert(manifest, key)
        async with self._started(plan, sources, prefetch=False) as load:
            layer: Layer = await load.layer(key.layer)
            yield layer.experts[key]

    async def _open(
        self,
        record: FileRecord,
        sources: Sequence[Source | LocalSource],
        held: AsyncExitStack,
    ) -> IncomingFile:
        origin = sources[0]
        file = IncomingFile(record, self._reader, self._shared.measures)
        held.callback(file.close)
        if isinstance(origin, LocalSource):
            file.local, file.sources = origin, sources[1:]
            return file
        file.sources = sources
        if self._disks is not None:
            file.disks = self._disks
            file.cached = await self._disks.hold(await _identity(record, origin), record)
            if file.cached is not None:
                held.push_async_callback(self._disks.let_go, file.cached)
        return file

    async def _hold(
        self,
        plan: LoadPlan,
        sources: Sequence[Source | LocalSource],
        files: Mapping[str, IncomingFile],
        held: AsyncExitStack,
    ) -> Places:
        identity = {name: await _identity(file.record, sources[0]) for name, file in files.items()}
        wanted = [(identity[run.file.name], run) for run in plan.runs]
        host, device = self._shared.host, self._shared.device
        if device is None:
            runs = self._hold_in_host(wanted, files, held)
            return Places(runs, [None] * len(runs), held.enter_context(ExitStack()).close)
        on_device = device.hold(wanted)
        for place in on_device:
            held.callback(device.let_go, place)
        missing = [n for n, place in enumerate(on_device) if place.missing(wanted[n][1].chunks)]
        staging = held.enter_context(ExitStack())
        try:
            in_host = host.hold([wanted[n] for n in missing])
        except OutOfMemory:
            # What is there serves, and the rest passes through piece by piece.
            missing = [n for n in missing if host.has(*wanted[n])]
            in_host = host.hold([wanted[n] for n in missing])
        staged = dict(zip(missing, in_host, strict=True))
        for place in staged.values():
            staging.callback(host.let_go, place)
        return Places(on_device, [staged.get(n) for n in range(len(wanted))], staging.close)

    def _hold_in_host(
        self, wanted: list[tuple[str, Run]], files: Mapping[str, IncomingFile], held: AsyncExitStack
    ) -> list[HeldRun]:
        host, mapped = self._shared.host, dict[Run, MappedFile]()
        if self._map_cached:
            absent = [run for identity, run in wanted if not host.has(identity, run)]
            paths = ((run, files[run.file.name].path) for run in absent)
            mapped = mappings(paths, self._verified)
        try:
            places = host.hold(wanted, mapped=mapped)
        finally:
            for file in set(mapped.values()):
                file.close_unless_used()
        for place in places:
            held.callback(host.let_go, place)
        return places


async def _identity(record: FileRecord, source: Source | LocalSource) -> str:
    return record.sha256 or await source.identity(record.name)
