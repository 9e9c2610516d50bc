"""The whole matrix: wherever experts lie and however a step is cut, the resident model's bits.

    python benchmarks/experts_matrix.py [--seconds 600] [--seed 0]

A small mixture of random weights runs four sequences under every combination of pool, policy,
prefetch, source, memory apart or as one pool, batch and chunks, each in a cache of its own, as
after a restart; half of them have experts torn out of their slots in the middle of steps. Every
hidden state is compared with the resident model's, bit for bit. Combinations come in a seeded
order, so that a run that ends early, after ``--seconds``, has seen a fair sample; it says how many
there were. The exit status is 1 if any bit differed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from time import monotonic

import torch
from offloading.model import PAGE_TOKENS, Shape, make_checkpoint
from torch import Tensor

from lite_llm.checkpoint import open_checkpoint
from lite_llm.experts import POLICIES, ExpertCache, ExpertSettings, Packing, Routed
from lite_llm.kernels import LayerPages, PagedKv, Rows
from lite_llm.kvcache import KvLayout
from lite_llm.models import Decoder, load_decoder, open_expert_cache, parse_config, take_inventory
from lite_llm.models.moe import MoeBlock
from lite_llm.tiers import DiskReader, LocalSource, RecordReader

SHAPE = Shape(layers=3, experts=16, top_k=3, hidden=64, inner=32)
SEQUENCES = ([*range(3, 30)], [9, 9, 9, 4, 60], [*range(40, 60), 1, 2], [7])
ALL = SHAPE.layers * SHAPE.experts
POOLS = {
    "one token": SHAPE.layers * SHAPE.top_k,
    **{f"{percent} %": ALL * percent // 100 for percent in (10, 25, 50, 100)},
}
PREFETCH = ("off", "on", "wrong")
SOURCES = {"warm": ALL + 16, "disk": 4, "store": 4}
"""Warm slots, those that threads work in included; hot is what a pool of all is."""
BATCHES = ("together", "alone")
CHUNKS = ((1 << 20,), (5, 1, 3), (1,))


@dataclass(frozen=True)
class Case:
    """One combination."""

    pool: str
    policy: str
    prefetch: str
    source: str
    apart: bool
    batch: str
    chunks: tuple[int, ...]
    tears: bool


class Store:
    """A distant source that has a directory's files."""

    uri = "test://store"

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def identity(self, name: str) -> str:
        return name

    async def read(self, name: str, offset: int, target: memoryview) -> None:
        with (self._directory / name).open("rb") as file:
            file.seek(offset)
            file.readinto(target)

    async def close(self) -> None:
        pass


class Tearer:
    """Throws experts out of their slots when a layer begins: what it needs is there no more."""

    def __init__(self, cache: ExpertCache, seed: int) -> None:
        self._cache = cache
        self._random = random.Random(seed)

    def __call__(self, layer: int, routed: Routed, packing: Packing) -> None:
        for expert in self._cache.numbers[layer]:
            if self._random.random() < 0.5:
                self._cache.evict(expert)


def run(
    decoder: Decoder, sequences: Sequence[Sequence[int]], chunks: Sequence[int]
) -> list[Tensor]:
    """Hidden states of each sequence, all in one batch, each in chunks of its own size."""
    pages = _pages(decoder.kv_layout, len(sequences))
    done = [0] * len(sequences)
    parts: list[list[Tensor]] = [[] for _ in sequences]
    while any(begin < len(tokens) for begin, tokens in zip(done, sequences, strict=True)):
        rows: list[tuple[int, int]] = []
        counts = []
        for number, tokens in enumerate(sequences):
            end = min(len(tokens), done[number] + chunks[number % len(chunks)])
            rows += [(number, position) for position in range(done[number], end)]
            counts.append(end - done[number])
            done[number] = end
        tokens_T = torch.tensor([sequences[number][position] for number, position in rows])
        sequence_T, position_T = torch.tensor(rows, dtype=torch.int32).T.contiguous()
        lists_SN = torch.arange(len(sequences), dtype=torch.int32)[:, None]
        placed = Rows(sequence_T, position_T, lists_SN)
        step = tuple(LayerPages(kv, placed) for kv in pages)
        hidden_TD = decoder.hidden(tokens_T, position_T.long(), step)
        for number, part in enumerate(torch.split(hidden_TD, counts)):
            parts[number].append(part)
    return [torch.cat(part) for part in parts]


def _pages(layout: KvLayout, sequences: int) -> list[PagedKv]:
    def empty(heads: int, dim: int) -> Tensor:
        return torch.full((sequences, heads, PAGE_TOKENS, dim), torch.nan, dtype=layout.dtype)

    return [
        PagedKv(empty(each.kv_heads, each.key_dim), empty(each.kv_heads, each.value_dim))
        for each in layout.layers
    ]


@contextmanager
def cached(
    directory: Path, case: Case, loop: asyncio.AbstractEventLoop
) -> Iterator[tuple[Decoder, ExpertCache]]:
    """A decoder whose experts come as the case says."""
    slot = -(-SHAPE.expert_bytes // 4096) * 4096
    settings = ExpertSettings(
        hot_bytes=(POOLS[case.pool] + 2) * slot,
        warm_bytes=SOURCES[case.source] * slot,
        policy=POLICIES[case.policy],
        prefetch=case.prefetch != "off",
        apart=case.apart,
    )
    source = Store(directory) if case.source == "store" else LocalSource(directory)
    with open_checkpoint(directory) as reader:
        config = parse_config(reader.manifest.architecture)
        inventory = take_inventory(reader.manifest, config)
        disk = DiskReader(threads=1)
        records = RecordReader(inventory.manifest, [source], reader=disk, loop=loop)
        cache = open_expert_cache(inventory, records, settings)
        *_, decoder = load_decoder(reader, config, cache)
        assert isinstance(decoder, Decoder)
        _disturb(decoder, cache, case)
        try:
            yield decoder, cache
        finally:
            decoder.drop()
            cache.close()
            records.close()
            disk.close()


def _disturb(decoder: Decoder, cache: ExpertCache, case: Case) -> None:
    for index in range(SHAPE.layers):
        block = decoder.weights.get(index).ffn
        assert isinstance(block, MoeBlock)
        if case.tears:
            block.experts.observers.append(Tearer(cache, index))
        ahead = block.experts.ahead
        if case.prefetch == "wrong" and (route := getattr(ahead, "_route", None)) is not None:

            def wrong(x_TD: Tensor, right: object = route) -> Routed:
                routed: Routed = right(x_TD)  # type: ignore[operator]  # it is the layer's
                routed.experts_TK.add_(5).remainder_(SHAPE.experts)
                return routed

            ahead._route = wrong  # type: ignore[union-attr]  # the attack is on this


def check(directory: Path, case: Case, expected: Sequence[Tensor], loop: object) -> int:
    """Sequences whose bits differ."""
    assert isinstance(loop, asyncio.AbstractEventLoop)
    with cached(directory, case, loop) as (decoder, _):
        if case.batch == "together":
            found = run(decoder, SEQUENCES, case.chunks)
        else:
            found = [run(decoder, [each], case.chunks)[0] for each in SEQUENCES]
    return sum(not torch.equal(*pair) for pair in zip(found, expected, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="after which it ends")
    parser.add_argument("--seed", type=int, default=0, help="of the order of combinations")
    given = parser.parse_args()
    cases = [
        Case(*values)
        for values in product(
            POOLS, POLICIES, PREFETCH, SOURCES, (True, False), BATCHES, CHUNKS, (False, True)
        )
    ]
    random.Random(given.seed).shuffle(cases)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    began, done, wrong = monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        directory = make_checkpoint(Path(temporary), SHAPE)
        with open_checkpoint(directory) as reader:
            *_, decoder = load_decoder(reader, parse_config(reader.manifest.architecture))
            assert isinstance(decoder, Decoder)
        expected = run(decoder, SEQUENCES, CHUNKS[0])
        for case in cases:
            if monotonic() - began > given.seconds:
                break
            done += 1
            if differing := check(directory, case, expected, loop):
                wrong += 1
                print(f"{differing} sequences differ: {case}", flush=True)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    print(f"{done} of {len(cases)} combinations, {wrong} with other bits")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
