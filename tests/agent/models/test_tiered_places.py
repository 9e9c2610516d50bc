"""Where experts come from when they are not in memory: disks, stores, what failed; and how much
memory all of it takes."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.agent.models.tiered import (
    EXPERTS,
    SEQUENCES,
    SIZES,
    SLOT,
    Distant,
    Run,
    Save,
    resident,
    tiered,
)
from transformers import AutoConfig

from lite_llm.checkpoint import convert, open_checkpoint
from lite_llm.contracts.errors import StoreUnavailable
from lite_llm.contracts.tiers import Medium
from lite_llm.experts import (
    ExpertAway,
    ExpertCorrupt,
    OfRows,
)
from lite_llm.testing.checkpoints import write_tokenizer
from lite_llm.tiers import DiskBudget, DiskTier, LocalSource

RESIDENT = """
import sys
from pathlib import Path

import torch

from lite_llm.checkpoint import open_checkpoint
from lite_llm.experts import ExpertSettings, Routed, packing_of
from lite_llm.models import open_expert_cache, parse_config, take_inventory
from lite_llm.tiers import DiskReader, LocalSource, RecordReader


def anonymous():
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) << 10


directory, hot, warm, apart = Path(sys.argv[1]), *map(int, sys.argv[2:])
disk = DiskReader(threads=1)
with open_checkpoint(directory) as reader:
    config = parse_config(reader.manifest.architecture)
    inventory = take_inventory(reader.manifest, config)
    records = RecordReader(inventory.manifest, [LocalSource(directory)], reader=disk)
    settings = ExpertSettings(hot_bytes=hot, warm_bytes=warm, apart=bool(apart))
    small = ExpertSettings(hot_bytes=4 << 20, warm_bytes=4 << 20, apart=bool(apart))
    peak = before = 0
    for each in (small, settings):  # the first one compiles and warms what is not experts'
        before = peak = anonymous()
        cache = open_expert_cache(inventory, records, each)
        for layer, numbers in cache.numbers.items():
            for row in range(len(numbers)):
                packing = packing_of(Routed(torch.tensor([[row]]), torch.ones(1, 1)))
                for wave in cache.bank(layer).bring(packing):
                    del wave
                peak = max(peak, anonymous())
        fetched = sum(cache.fetcher.tally.num_bytes.values())
        cache.close()
    records.close()
    disk.close()
    print(peak - before, fetched)
"""


@pytest.mark.parametrize("apart", [True, False])
def test_memory_stays_within_its_budgets(save_model: Save, tmp_path: Path, apart: bool) -> None:
    sizes = {**SIZES, "hidden_size": 256, "moe_intermediate_size": 512, "num_experts": 24}
    directory, _ = save_model(AutoConfig.for_model("qwen3_moe", **sizes, dtype="bfloat16"))
    write_tokenizer(directory, vocab=128)
    *_, _ = convert(directory, tmp_path / "converted")
    hot, warm = 8 << 20, 12 << 20
    told = subprocess.run(
        [sys.executable, "-c", RESIDENT, tmp_path / "converted", *map(str, (hot, warm, +apart))],
        check=True,
        capture_output=True,
        text=True,
    )
    grown, fetched = map(int, told.stdout.split()[-2:])
    assert fetched > 2 * (hot + warm), "much more went through it"
    assert hot <= grown <= hot + warm + (2 << 20)


def damage(checkpoint: Path, copy: Path) -> tuple[Path, int, int]:
    """A copy in which one expert is broken; with the layer and the row of the router."""
    shutil.copytree(checkpoint, copy)
    with open_checkpoint(checkpoint) as reader:
        record = reader.manifest.experts[EXPERTS + 4]
    assert record.span is not None
    with (copy / record.span.file).open("r+b") as file:
        file.seek(record.span.offset + 100)
        file.write(b"\x55\xaa\x55")
    return copy, record.key.layer, record.router_row


def test_a_corrupt_expert_ends_those_rows_that_chose_it(
    checkpoint: Path, tmp_path: Path, run: Run
) -> None:
    expected = run(resident(checkpoint), SEQUENCES)
    broken, layer, row = damage(checkpoint, tmp_path / "broken")
    with tiered(broken) as (decoder, cache):
        with pytest.raises(ExpertCorrupt, match=f"expert {row} of layer {layer}") as raised:
            run(decoder, SEQUENCES)
        assert "checksum" in raised.value.message
        assert cache.table.num_pinned == cache.fetcher.table.num_pinned == 0
        ends = torch.tensor([len(each) for each in SEQUENCES]).cumsum(0)
        hurt = {int(torch.searchsorted(ends, wrong, right=True)) for wrong in raised.value.rows}
        others = [number for number in range(len(SEQUENCES)) if number not in hurt]
        assert hurt
        for number in others:
            found = run(decoder, [SEQUENCES[number]])
            assert torch.equal(found[0], expected[number])


async def test_a_corrupt_expert_comes_from_the_store_instead(
    checkpoint: Path, tmp_path: Path, run: Run
) -> None:
    expected = run(resident(checkpoint), SEQUENCES)
    broken, _, _ = damage(checkpoint, tmp_path / "broken")
    store = Distant(checkpoint)
    with tiered(broken, [LocalSource(broken), store], asyncio.get_running_loop()) as (decoder, _):
        found = await asyncio.to_thread(run, decoder, SEQUENCES)
    assert all(map(torch.equal, found, expected))
    assert store.num_reads


async def test_a_store_can_be_the_only_place(checkpoint: Path, run: Run) -> None:
    expected = run(resident(checkpoint), SEQUENCES)
    store = Distant(checkpoint)
    with tiered(checkpoint, [store], asyncio.get_running_loop(), warm_bytes=12 * SLOT) as (d, c):
        found = await asyncio.to_thread(run, d, SEQUENCES, [3])
        assert c.fetcher.tally.fetched[Medium.OBJECT_STORE] == store.num_reads
    assert all(map(torch.equal, found, expected))


async def test_what_came_from_a_store_is_kept_on_a_disk(
    checkpoint: Path, tmp_path: Path, run: Run
) -> None:
    expected = run(resident(checkpoint), SEQUENCES)
    store, loop = Distant(checkpoint), asyncio.get_running_loop()
    disk = tmp_path / "nvme"
    budget = DiskBudget(directory=disk, num_bytes=1 << 20)
    small: dict[str, Any] = {"hot_bytes": 4 * SLOT, "warm_bytes": 8 * SLOT, "prefetch": False}

    async def serve(disks: DiskTier) -> Counter[Medium]:
        with tiered(checkpoint, [store], loop, disks, **small) as (decoder, cache):
            found = await asyncio.to_thread(run, decoder, SEQUENCES, [4])
            records = cache.fetcher._reader  # nobody reads from it now
            assert records.kept is not None
            await records.kept.let_go()
        assert all(map(torch.equal, found, expected))
        return cache.fetcher.tally.fetched

    async with DiskTier({Medium.NVME: budget}) as disks:
        first = await serve(disks)
        assert first[Medium.OBJECT_STORE] == store.num_reads
        assert first[Medium.NVME], "the small pool asked again for what had been let go"
        store.is_away = True
        second = await serve(disks)
        assert not second[Medium.OBJECT_STORE]
        assert second[Medium.NVME]
        store.is_away = False
        for path in [*disk.glob("partial/*"), *disk.glob("objects/*/*")]:
            path.write_bytes(bytes(path.stat().st_size))
    async with DiskTier({Medium.NVME: budget}) as disks:
        assert (await serve(disks))[Medium.OBJECT_STORE], "bad chunks are fetched again"


async def test_a_store_that_is_away_fails_those_who_need_it_and_is_asked_again(
    checkpoint: Path, run: Run
) -> None:
    expected = run(resident(checkpoint), SEQUENCES[3:])
    store = Distant(checkpoint, is_away=True)
    loop = asyncio.get_running_loop()
    with tiered(checkpoint, [store], loop, patience=0.1, prefetch=False) as (decoder, _):
        with pytest.raises(ExpertAway, match="did not come in time") as raised:
            await asyncio.to_thread(run, decoder, SEQUENCES[3:])
        assert isinstance(raised.value, StoreUnavailable | OfRows)
        assert raised.value.rows == (0,)
        store.is_away = False
        found = await asyncio.to_thread(run, decoder, SEQUENCES[3:])
    assert torch.equal(found[0], expected[0])
