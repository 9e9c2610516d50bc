"""One load under way: requests in execution order on the wires, layers handed out as they fill."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from lite_llm.contracts.errors import Cancelled, InvalidRequest
from lite_llm.contracts.tiers import Medium
from lite_llm.tiers.arena import Lease
from lite_llm.tiers.device_tier import DeviceTier, copy_bytes
from lite_llm.tiers.extents import aligned_up
from lite_llm.tiers.incoming import IncomingFile
from lite_llm.tiers.layer import Layer
from lite_llm.tiers.measures import Measures
from lite_llm.tiers.memory_tier import HeldRun, HostTier
from lite_llm.tiers.plan import EMBEDDINGS, LoadPlan, Request
from lite_llm.tiers.progress import LoadProgress, Meter, Phase
from lite_llm.tiers.turns import Turns

Filler = Callable[[HeldRun, range], Awaitable[None]]


@dataclass(frozen=True)
class Shared:
    """What loads have in common."""

    host: HostTier
    device: DeviceTier | None
    disk_wire: Turns
    store_wire: Turns
    measures: Measures


@dataclass(frozen=True)
class Places:
    """Of a load's runs, in the plan's order."""

    runs: Sequence[HeldRun]
    """Where the layers lie: on the device, or in host memory without one."""
    staged: Sequence[HeldRun | None]
    """In host memory, from where they go to the device; None for what has no place there."""
    let_go_of_staged: Callable[[], None]


class Load:
    """Made by :meth:`Loader.load`."""

    def __init__(
        self,
        plan: LoadPlan,
        places: Places,
        files: Mapping[str, IncomingFile],
        shared: Shared,
        *,
        prefetch: bool,
    ) -> None:
        self.plan = plan
        self._places = places
        self._runs = places.runs
        self._files = files
        self._shared = shared
        self._prefetch = prefetch
        self._meter = Meter(plan.num_bytes, shared.measures)
        self._left = {stage.index: set(stage.needs) for stage in plan.stages}
        self._ready = {stage.index: asyncio.Event() for stage in plan.stages}
        self._layers: dict[int, Layer] = {}
        self._demanded: list[int] = []
        self._failure: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; called once."""
        self._task = asyncio.create_task(self._run())

    async def layer(self, index: int) -> Layer:
        """The weights of layer ``index`` as soon as they are there; waiting puts it first.

        Raises what stopped the load, or :class:`Cancelled` if it was closed.
        """
        if index not in self._ready:
            raise InvalidRequest(
                f"the load has no stage {index}",
                where="load",
                remedy=f"choose from {', '.join(map(str, self._ready))}",
            )
        self._demanded.append(index)
        try:
            await self._ready[index].wait()
        finally:
            self._demanded.remove(index)
        if self._left[index]:
            assert self._failure is not None
            raise self._failure
        if index not in self._layers:
            self._layers[index] = Layer(self.plan, self.plan.stage_by_index[index], self._runs)
        return self._layers[index]

    async def embeddings(self) -> Layer:
        """What comes before layer 0."""
        return await self.layer(EMBEDDINGS)

    async def head(self) -> Layer:
        """What comes after the last layer."""
        return await self.layer(max(self._ready))

    async def layers(self) -> AsyncIterator[Layer]:
        """All stages in execution order."""
        for stage in self.plan.stages:
            yield await self.layer(stage.index)

    async def done(self) -> None:
        """Wait until everything is in memory and written through; raises what stopped the load."""
        assert self._task is not None
        await asyncio.wait([self._task])
        if self._failure is not None:
            raise self._failure

    def progress(self) -> AsyncIterator[LoadProgress]:
        """The state now and after changes, until the load ends."""
        return self._meter.watch()

    async def close(self) -> None:
        """Stop, and return every lease. Arrays over the layers' views must be gone by now."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        with ExitStack() as leases:
            for layer in self._layers.values():
                leases.callback(layer.release)

    async def _run(self) -> None:
        try:
            waiting: dict[Turns, list[int]] = {}
            fresh = {
                number: self._files[held.run.file.name].medium
                for number, held in enumerate(self._runs)
                if not held.is_complete
            }
            for number, request in enumerate(self.plan.requests):
                if not self._runs[request.run].missing(request.chunks):
                    self._arrived(number)
                else:
                    waiting.setdefault(self._wire_of(request), []).append(number)
            self._wake()
            async with asyncio.TaskGroup() as group:
                for wire, numbers in waiting.items():
                    group.create_task(self._pump(wire, deque(numbers)))
            self._count(fresh)
        except* asyncio.CancelledError:
            pass
        except* Exception as failures:
            self._failure = _first(failures)
        finally:
            self._places.let_go_of_staged()
            self._failure = self._failure or (
                Cancelled("the load was closed", where="load") if any(self._left.values()) else None
            )
            for event in self._ready.values():
                event.set()
            self._meter.close()

    def _wire_of(self, request: Request) -> Turns:
        file = self._files[self._runs[request.run].run.file.name]
        return self._shared.disk_wire if file.is_here(request.chunks) else self._shared.store_wire

    async def _pump(self, wire: Turns, waiting: deque[int]) -> None:
        async with wire.joined(self), asyncio.TaskGroup() as group:
            while waiting:
                await wire.take(self, self._is_demand)
                number = self._next(waiting)
                wire.charge(self, self.plan.requests[number].num_bytes)
                task = group.create_task(self._one(number, group))
                # Not in the task's own finally: a task cancelled before its start never gets there.
                task.add_done_callback(lambda _: wire.give_back())

    def _is_demand(self) -> bool:
        return bool(self._demanded) or not self._prefetch

    def _next(self, waiting: deque[int]) -> int:
        for stage in self._demanded:
            for number in waiting:
                if number in self._left[stage]:
                    waiting.remove(number)
                    return number
        return waiting.popleft()

    async def _one(self, number: int, group: asyncio.TaskGroup) -> None:
        request = self.plan.requests[number]
        held, staged = self._runs[request.run], self._places.staged[request.run]
        await self._bring(held, request.chunks, self._filler(staged))
        self._arrived(number)
        in_host = held if self._shared.device is None else staged
        if in_host is not None:
            group.create_task(self._keep(in_host, request.chunks))

    def _filler(self, staged: HeldRun | None) -> Filler:
        if self._shared.device is None:
            return self._fill
        return partial(self._fill_device, staged) if staged is not None else self._pass_through

    async def _bring(self, held: HeldRun, wanted: range, fill: Filler) -> None:
        while missing := sorted(held.missing(wanted)):
            if others := {held.arriving[c] for c in missing if c in held.arriving}:
                # Another load is at it. Should it be cancelled, the work is ours after all.
                await asyncio.wait(others)
                continue
            first, other = missing[0], self._other_with(held, missing[0])
            if other is not None and first in other.arriving:
                await asyncio.wait({other.arriving[first]})
                continue
            chunks = self._alike(held, range(first, wanted.stop), other)
            how = partial(self._share, other) if other is not None else fill
            task = asyncio.create_task(_filled(how, held, chunks))
            held.arriving.update(dict.fromkeys(chunks, task))
            try:
                await task
            finally:
                for chunk in chunks:
                    del held.arriving[chunk]

    def _alike(self, held: HeldRun, chunks: range, other: HeldRun | None) -> range:
        """As many of ``chunks``, from the first on, as are missing and come the same way."""
        stop = next(
            (c for c in chunks if c in held.present or self._other_with(held, c) is not other),
            chunks.stop,
        )
        return self._files[held.run.file.name].together(range(chunks.start, stop))

    def _other_with(self, held: HeldRun, chunk: int) -> HeldRun | None:
        # A device is filled by its copier, and a mapped file has its bytes already.
        host = self._shared.host
        return host.other_with(held, chunk) if held.block.arena is host.arena else None

    async def _share(self, other: HeldRun, held: HeldRun, chunks: range) -> None:
        """Copy what another run of the same file has."""
        self._shared.host.keep(other)
        try:
            with (
                other.block.read(*other.part(chunks)) as source,
                held.block.write(*held.part(chunks)) as target,
            ):
                reader = self._files[held.run.file.name].reader
                await reader.submit(copy_bytes, source.view, target.view)
        finally:
            self._shared.host.let_go(other)

    async def _fill(self, held: HeldRun, chunks: range) -> None:
        """From a disk or a store into host memory."""
        offset, num_bytes = held.part(chunks)
        # Direct reads take whole pages, and the block has room for the last one.
        room = aligned_up(num_bytes) if held.grid.is_aligned else num_bytes
        file = self._files[held.run.file.name]
        with held.block.write(offset, room) as lease:
            await file.bring(chunks, lease.view, self._meter, held.mapped)

    async def _fill_device(self, staged: HeldRun, held: HeldRun, chunks: range) -> None:
        """From host memory, where it comes first and stays."""
        await self._bring(staged, chunks, self._fill)
        with staged.block.read(*staged.part(chunks)) as source:
            await self._to_device(source, held, chunks)

    async def _pass_through(self, held: HeldRun, chunks: range) -> None:
        """To the device by way of a borrowed block of host memory."""
        file, num_bytes = self._files[held.run.file.name], held.part(chunks)[1]
        async with self._shared.host.borrowed(num_bytes) as block:
            room = block.room if held.grid.is_aligned else num_bytes
            with block.write(0, room) as lease:
                await file.bring(chunks, lease.view, self._meter)
            with block.read() as source:
                await self._to_device(source, held, chunks)
                await file.keep(chunks, source.view)

    async def _to_device(self, source: Lease, held: HeldRun, chunks: range) -> None:
        device = self._shared.device
        assert device is not None
        offset, num_bytes = held.part(chunks)
        with held.block.write(offset, num_bytes) as target:
            seconds = await device.copy(source.view, target.view)
        self._meter.add(Phase.TO_GPU, num_bytes, seconds)
        self._shared.measures.moved(Medium.DRAM, Medium.GPU, num_bytes, seconds)

    async def _keep(self, held: HeldRun, chunks: range) -> None:
        with held.block.read(*held.part(chunks)) as lease:
            await self._files[held.run.file.name].keep(chunks, lease.view)

    def _count(self, fresh: Mapping[int, Medium]) -> None:
        measures, reason = self._shared.measures, "prefetch" if self._prefetch else "demand"
        for number, held in enumerate(self._runs):
            staged = self._places.staged[number]
            if number not in fresh:
                measures.found(Medium.DRAM if self._shared.device is None else Medium.GPU)
            elif self._shared.device is not None and staged is None:
                measures.changed(fresh[number], Medium.GPU, reason)
            elif held.mapped is None:
                measures.changed(fresh[number], Medium.DRAM, reason)
            if staged is not None and number in fresh:
                measures.changed(Medium.DRAM, Medium.GPU, reason)

    def _arrived(self, number: int) -> None:
        self._meter.arrived(self.plan.requests[number].num_bytes)
        for left in self._left.values():
            left.discard(number)
        self._wake()

    def _wake(self) -> None:
        for index, left in self._left.items():
            if not left:
                self._ready[index].set()


async def _filled(fill: Filler, held: HeldRun, chunks: range) -> None:
    await fill(held, chunks)
    held.present.update(chunks)


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
