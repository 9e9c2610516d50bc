"""Loads from a local directory: complete, in order, shared, stopped, broken."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lite_llm.contracts.errors import Cancelled, Corrupt, InvalidRequest, OutOfMemory
from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.tiers import Medium
from lite_llm.telemetry import names
from lite_llm.telemetry.metrics import Metrics
from lite_llm.tiers import (
    EMBEDDINGS,
    Arena,
    DiskReader,
    HostMemory,
    HostTier,
    Loader,
    LocalSource,
    Phase,
    ReadFailed,
    StillLeased,
)

Make = Callable[..., Any]


@pytest.fixture
def source(checkpoint: Any, tmp_path: Path) -> LocalSource:
    return LocalSource(checkpoint.write(tmp_path / "model"))


class Gate:
    """A reader that stops before each read until it is let through."""

    def __init__(self) -> None:
        self.open = threading.Semaphore(0)
        self.reads: list[int] = []

    def __call__(self, descriptor: int, views: list[memoryview], offset: int, flags: int) -> int:
        if flags:
            raise BlockingIOError
        self.open.acquire(timeout=60)
        self.reads.append(offset)
        return os.preadv(descriptor, views, offset, flags)


async def assert_complete(load: Any, checkpoint: Any) -> None:
    seen = set()
    async for layer in load.layers():
        for name, view in layer.tensors.items():
            record = checkpoint.manifest.tensor_by_name[name]
            assert bytes(view) == checkpoint.bytes_of(record.span), name
            seen.add(name)
        for key, parts in layer.experts.items():
            record = checkpoint.manifest.expert_by_key[key]
            assert layer.index == key.layer
            for view, part in zip(parts, record.parts, strict=True):
                assert bytes(view) == checkpoint.bytes_of(part.span), key
            seen.add(key)
    manifest = checkpoint.manifest
    assert seen == manifest.tensor_by_name.keys() | manifest.expert_by_key.keys()


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("digested", [True, False])
async def test_every_tensor_arrives_as_it_was_written(
    loader: Loader, make_checkpoint: Make, tmp_path: Path, checked: bool, digested: bool
) -> None:
    checkpoint = make_checkpoint(checked=checked, digested=digested)
    source = LocalSource(checkpoint.write(tmp_path / "model"))
    async with loader.load(checkpoint.manifest, [source]) as load:
        await assert_complete(load, checkpoint)
        await load.done()


async def test_a_second_load_finds_everything_in_memory(
    host: HostTier, reader: DiskReader, checkpoint: Any, source: LocalSource, tmp_path: Path
) -> None:
    metrics = Metrics()
    loader = Loader(host, reader, metrics=metrics, map_cached=False)
    async with loader.load(checkpoint.manifest, [source]) as load:
        await load.done()
    for name in checkpoint.content:
        (tmp_path / "model" / name).unlink()
    async with loader.load(checkpoint.manifest, [source]) as load:
        await assert_complete(load, checkpoint)
        last = [state async for state in load.progress()][-1]
    assert last.done_bytes == last.total_bytes == load.plan.num_bytes
    assert last.phases[Phase.READ].num_bytes == 0
    hits = metrics[names.TIER_HITS_TOTAL]
    assert hits.labels(tier="dram")._value.get() == 2
    moved = metrics[names.TIER_LOAD_BYTES_TOTAL].labels(
        source=source.medium.name.lower(), target="dram"
    )
    assert moved._value.get() == load.plan.num_bytes
    for phase in (Phase.READ, Phase.VERIFY):
        spent = metrics[names.LOAD_PHASE_BYTES_TOTAL].labels(phase=phase)
        assert spent._value.get() == load.plan.num_bytes
        assert metrics[names.LOAD_PHASE_SECONDS_TOTAL].labels(phase=phase)._value.get() > 0


async def test_progress_tells_phases_bytes_and_seconds(
    loader: Loader, checkpoint: Any, source: LocalSource
) -> None:
    async with loader.load(checkpoint.manifest, [source]) as load:
        states = [state async for state in load.progress()]
    total = checkpoint.manifest.num_bytes
    assert [s.done_bytes for s in states] == sorted(s.done_bytes for s in states)
    assert states[-1].done_bytes == states[-1].total_bytes == total
    for phase in (Phase.READ, Phase.VERIFY):
        assert states[-1].phases[phase].num_bytes == total
        assert states[-1].phases[phase].seconds > 0
    assert states[-1].phases[Phase.FETCH].num_bytes == 0


async def test_a_layer_is_there_as_soon_as_its_bytes_are_and_demand_goes_first(
    host: HostTier, make_checkpoint: Make, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(layers=8, experts=0)
    source = LocalSource(checkpoint.write(tmp_path / "deep"))
    gate = Gate()
    reader = DiskReader(threads=1, preadv=gate)
    async with Loader(host, reader, map_cached=False).load(checkpoint.manifest, [source]) as load:
        needs = {stage.index: stage.needs for stage in load.plan.stages}
        first = asyncio.create_task(load.embeddings())
        gate.open.release(len(needs[EMBEDDINGS]))
        await first
        assert not load._ready[0].is_set()
        head = asyncio.create_task(load.head())
        await asyncio.sleep(0)
        # Two requests were queued at the reading thread before; then comes what is waited for.
        gate.open.release(len(needs[8]) + 2)
        async with asyncio.timeout(60):
            await head
        assert not load._ready[5].is_set()
        gate.open.release(100)
        await load.done()
    reader.close()


async def test_closing_stops_at_once_and_frees_everything(
    host: HostTier, checkpoint: Any, source: LocalSource
) -> None:
    gate = Gate()
    reader = DiskReader(threads=1, preadv=gate)
    async with Loader(host, reader, map_cached=False).load(checkpoint.manifest, [source]) as load:
        waiting = asyncio.create_task(load.layer(2))
        await asyncio.sleep(0.01)
        assert host.arena.used_bytes > 0
        gate.open.release(1)
    assert host.arena.used_bytes == 0
    assert len(gate.reads) <= 2
    with pytest.raises(Cancelled):
        await waiting
    reader.close()


async def test_two_loads_of_one_model_read_it_once(
    host: HostTier, checkpoint: Any, source: LocalSource
) -> None:
    gate = Gate()
    gate.open.release(1000)
    reader = DiskReader(threads=2, preadv=gate)
    loader = Loader(host, reader, map_cached=False)
    async with (
        loader.load(checkpoint.manifest, [source]) as one,
        loader.load(checkpoint.manifest, [source]) as two,
    ):
        await asyncio.gather(one.done(), two.done())
        await assert_complete(two, checkpoint)
    assert len(gate.reads) == len(one.plan.requests)
    reader.close()


async def test_a_load_takes_over_from_another_that_was_stopped(
    host: HostTier, checkpoint: Any, source: LocalSource
) -> None:
    gate = Gate()
    reader = DiskReader(threads=1, preadv=gate)
    loader = Loader(host, reader, map_cached=False)
    async with loader.load(checkpoint.manifest, [source]) as two:
        async with loader.load(checkpoint.manifest, [source]):
            await asyncio.sleep(0.01)
            gate.open.release(1000)
        await assert_complete(two, checkpoint)
        await two.done()
    reader.close()


async def test_views_make_arrays_without_a_copy_and_may_not_outlive_the_load(
    loader: Loader, checkpoint: Any, source: LocalSource
) -> None:
    async with loader.load(checkpoint.manifest, [source]) as load:
        layer = await load.layer(1)
        view = layer.tensors["model.layers.1.q_proj.weight"]
        array = np.frombuffer(view, np.uint8)
        assert not array.flags.owndata
        assert not array.flags.writeable
        with pytest.raises(StillLeased, match="arrays over"):
            layer.release()
        del array
    with pytest.raises(ValueError, match="released memoryview"):
        bytes(view)


async def test_a_bad_chunk_stops_the_load_with_file_chunk_and_offset(
    loader: Loader, checkpoint: Any, source: LocalSource, tmp_path: Path
) -> None:
    path = tmp_path / "model" / "dense.bin"
    damaged = bytearray(checkpoint.content["dense.bin"])
    damaged[5 * (64 << 10) + 17] ^= 1
    await asyncio.to_thread(path.write_bytes, damaged)
    async with loader.load(checkpoint.manifest, [source]) as load:
        with pytest.raises(Corrupt, match=r"chunk 5 of dense\.bin \(offset 327680\)"):
            await load.layer(0)
        with pytest.raises(Corrupt):
            await load.done()


async def test_a_missing_file_stops_the_load(
    loader: Loader, checkpoint: Any, source: LocalSource, tmp_path: Path
) -> None:
    (tmp_path / "model" / "experts.bin").unlink()
    async with loader.load(checkpoint.manifest, [source]) as load:
        with pytest.raises(ReadFailed, match=r"experts\.bin"):
            await load.done()


async def test_one_expert_comes_by_one_read_and_from_memory_if_it_is_there(
    host: HostTier, checkpoint: Any, source: LocalSource
) -> None:
    gate = Gate()
    gate.open.release(1000)
    reader = DiskReader(threads=2, preadv=gate)
    loader, key = Loader(host, reader, map_cached=False), ExpertKey(1, 0, 0, 2)
    record = checkpoint.manifest.expert_by_key[key]
    async with loader.expert(checkpoint.manifest, [source], key) as parts:
        assert [bytes(v) for v in parts] == [checkpoint.bytes_of(p.span) for p in record.parts]
    assert len(gate.reads) == 1
    async with loader.load(checkpoint.manifest, [source]) as load:
        await load.done()
        before = len(gate.reads)
        async with loader.expert(checkpoint.manifest, [source], ExpertKey(2, 0, 0, 3)) as parts:
            assert len(bytes(parts[0])) == 30_000
        assert len(gate.reads) == before
    with pytest.raises(InvalidRequest, match=r"no expert 9\.0\.0\.0"):
        async with loader.expert(checkpoint.manifest, [source], ExpertKey(9, 0, 0, 0)):
            pass
    reader.close()


async def test_too_little_memory_is_an_error_that_evicts_nothing(
    reader: DiskReader, make_checkpoint: Make, tmp_path: Path
) -> None:
    small, large = make_checkpoint(layers=1, experts=0), make_checkpoint(layers=4, experts=0)
    host = HostTier(Arena("dram", HostMemory(1 << 20, lock=False)))
    loader = Loader(host, reader, map_cached=False)
    sources = [LocalSource(c.write(tmp_path / n)) for c, n in ((small, "s"), (large, "l"))]
    async with loader.load(small.manifest, sources[:1]) as load:
        await load.done()
    held = host.arena.used_bytes
    with pytest.raises(OutOfMemory, match=r"dram \(1\.0 MiB\) has no room"):
        async with loader.load(large.manifest, sources[1:]):
            pass
    assert host.arena.used_bytes == held
    host.clear()
    host.arena.close()


async def test_arrays_that_outlive_their_load_are_an_error_and_never_read_foreign_bytes(
    reader: DiskReader, checkpoint: Any, source: LocalSource
) -> None:
    host = HostTier(Arena("dram", HostMemory(4 << 20, lock=False)))

    async def leak() -> Any:
        arrays = []
        with suppress(StillLeased):
            async with Loader(host, reader, map_cached=False).load(
                checkpoint.manifest, [source]
            ) as load:
                head = await load.head()
                arrays.append(np.frombuffer(head.tensors["lm_head.weight"], np.uint8))
            pytest.fail("the load let go of memory that is in use")
        return arrays[0]

    array = await leak()
    host.clear()
    span = checkpoint.manifest.tensor_by_name["lm_head.weight"].span
    assert bytes(array) == checkpoint.bytes_of(span)
    assert host.arena.used_bytes > 0


async def test_a_load_of_several_runs_evicts_nothing_unless_all_of_it_fits(
    reader: DiskReader, make_checkpoint: Make, tmp_path: Path
) -> None:
    small, large = make_checkpoint(layers=1, experts=0), make_checkpoint(layers=2, experts=8)
    host = HostTier(Arena("dram", HostMemory(2 << 20, lock=False)))
    loader = Loader(host, reader, map_cached=False)
    sources = [LocalSource(c.write(tmp_path / n)) for c, n in ((small, "s"), (large, "l"))]
    async with loader.load(small.manifest, sources[:1]) as load:
        await load.done()
    held = host.arena.used_bytes
    with pytest.raises(OutOfMemory, match="has no room for 2"):
        async with loader.load(large.manifest, sources[1:]):
            pass
    assert host.arena.used_bytes == held
    host.check()
    host.clear()
    host.arena.close()


async def test_what_nobody_uses_makes_room_for_what_is_wanted(
    reader: DiskReader, make_checkpoint: Make, tmp_path: Path
) -> None:
    models = [make_checkpoint(layers=1, experts=0) for _ in range(3)]
    host = HostTier(Arena("dram", HostMemory(2_200_000 // 4096 * 4096, lock=False)))
    loader = Loader(host, reader, map_cached=False)
    for number, model in enumerate(models):
        source = LocalSource(model.write(tmp_path / str(number)))
        async with loader.load(model.manifest, [source]) as load:
            await assert_complete(load, model)
        host.check()
    assert host._residency.used_bytes(Medium.DRAM) <= host.arena.budget_bytes
    assert len(host._runs) == 2
    host.clear()
    host.arena.close()


async def test_names_that_lead_out_of_the_directory_are_refused(source: LocalSource) -> None:
    for name in ("../x", "/etc/passwd", "a/../../x", "a//b", ".", "a\\b"):
        with pytest.raises(InvalidRequest):
            source.path(name)
