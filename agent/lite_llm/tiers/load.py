"""One load under way: requests in execution order on the wires, layers handed out as they fill."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack

from lite_llm.contracts.errors import Cancelled, InvalidRequest
from lite_llm.contracts.tiers import Medium
from lite_llm.tiers.extents import aligned_up
from lite_llm.tiers.host_tier import HostRun
from lite_llm.tiers.incoming import IncomingFile
from lite_llm.tiers.layer import Layer
from lite_llm.tiers.measures import Measures
from lite_llm.tiers.plan import EMBEDDINGS, LoadPlan, Request
from lite_llm.tiers.progress import LoadProgress, Meter
from lite_llm.tiers.turns import Turns


class Load:
    """Made by :meth:`Loader.load`."""

    def __init__(
        self,
        plan: LoadPlan,
        runs: Sequence[HostRun],
        files: Mapping[str, IncomingFile],
        disk_wire: Turns,
        store_wire: Turns,
        measures: Measures,
        *,
        prefetch: bool,
    ) -> None:
        self.plan = plan
        self._runs = runs
        self._files = files
        self._disk_wire = disk_wire
        self._store_wire = store_wire
        self._measures = measures
        self._prefetch = prefetch
        self._meter = Meter(plan.num_bytes)
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
            waiting: dict[Turns, list[int]] = {self._disk_wire: [], self._store_wire: []}
            for number, request in enumerate(self.plan.requests):
                held = self._runs[request.run]
                if not held.missing(request.chunks):
                    self._arrived(number)
                else:
                    waiting[self._wire_of(request)].append(number)
            self._wake()
            async with asyncio.TaskGroup() as group:
                for wire, numbers in waiting.items():
                    if numbers:
                        group.create_task(self._pump(wire, deque(numbers)))
        except* asyncio.CancelledError:
            pass
        except* Exception as failures:
            self._failure = _first(failures)
        finally:
            self._failure = self._failure or (
                Cancelled("the load was closed", where="load") if any(self._left.values()) else None
            )
            for event in self._ready.values():
                event.set()
            self._meter.close()

    def _wire_of(self, request: Request) -> Turns:
        file = self._files[self._runs[request.run].run.file.name]
        medium = file.medium_of(request.chunks)
        return self._store_wire if medium is Medium.OBJECT_STORE else self._disk_wire

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
        held = self._runs[request.run]
        await self._bring(held, request.chunks)
        self._arrived(number)
        group.create_task(self._keep(held, request.chunks))

    async def _bring(self, held: HostRun, wanted: range) -> None:
        while missing := sorted(held.missing(wanted)):
            if others := {held.arriving[c] for c in missing if c in held.arriving}:
                # Another load is at it. Should it be cancelled, the work is ours after all.
                await asyncio.wait(others)
                continue
            stop = next((c for c in range(missing[0], wanted.stop) if c in held.present), None)
            chunks = range(missing[0], wanted.stop if stop is None else stop)
            chunks = self._files[held.run.file.name].together(chunks)
            task = asyncio.create_task(self._fill(held, chunks))
            held.arriving.update(dict.fromkeys(chunks, task))
            try:
                await task
            finally:
                for chunk in chunks:
                    del held.arriving[chunk]

    async def _fill(self, held: HostRun, chunks: range) -> None:
        grid = held.grid
        offset = grid.start(chunks.start)
        num_bytes = grid.start(chunks.stop) - offset
        # Direct reads take whole pages, and the block has room for the last one.
        room = aligned_up(num_bytes) if grid.is_aligned else num_bytes
        with held.block.write(offset - held.run.start, room) as lease:
            await self._files[held.run.file.name].bring(chunks, lease.view, self._meter)
        held.present.update(chunks)

    async def _keep(self, held: HostRun, chunks: range) -> None:
        grid = held.grid
        offset = grid.start(chunks.start)
        with held.block.read(offset - held.run.start, grid.start(chunks.stop) - offset) as lease:
            await self._files[held.run.file.name].keep(chunks, lease.view)

    def _arrived(self, number: int) -> None:
        self._meter.arrived(self.plan.requests[number].num_bytes)
        for left in self._left.values():
            left.discard(number)
        self._wake()

    def _wake(self) -> None:
        for index, left in self._left.items():
            if not left:
                self._ready[index].set()


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
