"""Loads that meet: overlapping selections, mirrors of a local origin, and what is counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lite_llm.contracts.errors import StoreUnavailable
from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.tiers import Medium
from lite_llm.telemetry import names
from lite_llm.telemetry.metrics import Metrics
from lite_llm.tiers import (
    Arena,
    DeviceTier,
    DiskBudget,
    DiskReader,
    DiskTier,
    HostMemory,
    HostTier,
    Loader,
    LocalSource,
    ReadFailed,
)
from lite_llm.tiers.device_tier import MemoryCopier

CHUNK = 64 << 10
Make = Callable[..., Any]


class Slow:
    """A store that counts what it gives, and gives nothing before it is let."""

    uri = "slow://"

    def __init__(self, content: dict[str, bytes]) -> None:
        self.content = content
        self.open = asyncio.Event()
        self.given: Counter[tuple[str, int]] = Counter()
        self.broken = 0

    async def identity(self, name: str) -> str:
        return f"slow:{name}"

    async def read(self, name: str, offset: int, target: memoryview) -> None:
        await self.open.wait()
        if self.broken:
            self.broken -= 1
            raise StoreUnavailable("away", where="slow")
        target[:] = self.content[name][offset : offset + len(target)]
        first, last = offset // CHUNK, (offset + len(target) - 1) // CHUNK
        self.given.update((name, chunk) for chunk in range(first, last + 1))

    async def close(self) -> None: ...


async def assert_right(load: Any, checkpoint: Any) -> None:
    async for layer in load.layers():
        for key, parts in layer.experts.items():
            record = checkpoint.manifest.expert_by_key[key]
            for view, part in zip(parts, record.parts, strict=True):
                assert bytes(view) == checkpoint.bytes_of(part.span)


def low(key: ExpertKey) -> bool:
    return key.expert < 5


def high(key: ExpertKey) -> bool:
    return key.expert > 2


async def test_overlapping_selections_fetch_a_shared_chunk_once(
    host: HostTier, reader: DiskReader, make_checkpoint: Make
) -> None:
    checkpoint = make_checkpoint(experts=8)
    source = Slow(checkpoint.content)
    loader = Loader(host, reader)
    manifest, sources = checkpoint.manifest, [source]
    async with (
        loader.load(manifest, sources, dense=False, wants_expert=low) as one,
        loader.load(manifest, sources, dense=False, wants_expert=high) as two,
        loader.load(manifest, sources, dense=False, wants_expert=lambda key: True) as three,
    ):
        asyncio.get_running_loop().call_later(0.05, source.open.set)
        for load in (three, one, two):
            await assert_right(load, checkpoint)
            await load.done()
    shared = {chunk for chunk, count in source.given.items() if count > 1}
    assert not shared
    assert source.given


async def test_a_chunk_whose_other_load_fails_is_fetched_after_all(
    host: HostTier, reader: DiskReader, make_checkpoint: Make
) -> None:
    checkpoint = make_checkpoint(experts=8, layers=1)
    source = Slow(checkpoint.content)
    source.broken = 1
    loader = Loader(host, reader)
    manifest, sources = checkpoint.manifest, [source]
    async with (
        loader.load(manifest, sources, dense=False, wants_expert=low) as one,
        loader.load(manifest, sources, dense=False, wants_expert=high) as two,
    ):
        asyncio.get_running_loop().call_later(0.05, source.open.set)
        await assert_right(two, checkpoint)
        with pytest.raises(StoreUnavailable):
            await one.done()


@pytest.mark.parametrize("damage", ["bad chunk", "missing", "cut"])
async def test_a_mirror_serves_what_is_wrong_with_a_local_origin(
    host: HostTier, reader: DiskReader, checkpoint: Any, tmp_path: Path, damage: str
) -> None:
    origin = LocalSource(checkpoint.write(tmp_path / "origin"))
    content = checkpoint.content["experts.bin"]
    if damage == "bad chunk":
        origin.path("experts.bin").write_bytes(content[:-20] + bytes(20))
    elif damage == "cut":
        origin.path("experts.bin").write_bytes(content[: 2 * CHUNK])
    else:
        origin.path("experts.bin").unlink()
    away, mirror = Slow(checkpoint.content), Slow(checkpoint.content)
    away.broken = 1000
    away.open.set()
    mirror.open.set()
    metrics = Metrics()
    loader = Loader(host, reader, metrics=metrics, map_cached=False)
    async with loader.load(checkpoint.manifest, [origin, away, mirror]) as load:
        await assert_right(load, checkpoint)
    assert {name for name, _ in mirror.given} == {"experts.bin"}
    downloaded = metrics[names.DOWNLOAD_BYTES_TOTAL]
    assert downloaded.labels(source="mirror")._value.get() > 0
    assert downloaded.labels(source="origin")._value.get() == 0


async def test_a_local_mirror_that_is_cut_too_says_so(
    host: HostTier, reader: DiskReader, checkpoint: Any, tmp_path: Path
) -> None:
    sources = [LocalSource(checkpoint.write(tmp_path / name)) for name in ("origin", "mirror")]
    for source in sources:
        source.path("dense.bin").write_bytes(b"short")
    async with Loader(host, reader).load(checkpoint.manifest, sources) as load:
        with pytest.raises(ReadFailed, match=r"mirror/dense\.bin ends at"):
            await load.done()


async def test_gauges_transitions_and_evictions_are_counted(
    reader: DiskReader, make_checkpoint: Make, tmp_path: Path
) -> None:
    metrics = Metrics()
    models = [make_checkpoint(layers=1, experts=0) for _ in range(3)]
    host = HostTier(Arena("dram", HostMemory(1 << 20, lock=False)))
    device = DeviceTier(Arena("gpu", HostMemory(2 << 20, lock=False)), MemoryCopier())
    budget = DiskBudget(directory=tmp_path, num_bytes=3 << 20)

    def tier_bytes(tier: str, state: str) -> float:
        gauge = metrics[names.TIER_BYTES].labels(node="n1", tier=tier, state=state)
        return float(gauge._value.get())

    async with DiskTier({Medium.NVME: budget}) as disks:
        loader = Loader(host, reader, device=device, disks=disks, metrics=metrics, node="n1")
        assert tier_bytes("dram", "capacity") == 1 << 20
        for model in models:
            source = Slow(model.content)
            source.open.set()
            async with loader.load(model.manifest, [source]) as load:
                await load.done()
                assert tier_bytes("gpu", "pinned") > 0
            assert tier_bytes("gpu", "pinned") == 0
    moves, drops = metrics[names.TIER_TRANSITIONS_TOTAL], metrics[names.EVICTIONS_TOTAL]
    for source_medium, target in (("object_store", "dram"), ("dram", "gpu")):
        labels = {"source": source_medium, "target": target, "reason": "demand"}
        assert moves.labels(**labels)._value.get() == 3
    assert tier_bytes("gpu", "used") == device.arena.used_bytes > 0
    assert tier_bytes("nvme", "used") == sum(m.manifest.num_bytes for m in models)
    assert drops.labels(tier="dram", reason="capacity")._value.get() == 2
    assert drops.labels(tier="gpu", reason="capacity")._value.get() == 1
    device.close()
    assert drops.labels(tier="gpu", reason="unload")._value.get() == 2
    host.clear()
    host.arena.close()
