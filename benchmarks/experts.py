"""Experts that don't fit, beside other engines' ways to run them: same weights, same choices.

    python benchmarks/experts.py [--quick] [--budgets 10 25 50] [--directory DIR] [--json]

A mixture of experts of random weights (4.5 GiB in 24 layers of 64; --quick: 0.4 GiB) decodes one
sequence, whose routers choose what a trace says: one made with the statistics that real models'
traces have, so that all contestants need the same experts. Hot slots hold 10, 25 or 50 % of them,
warm memory half, the rest comes from the disk, past the page cache. Each contestant fills its slots
for a third of the trace; then steps are timed, one by one. "formula" is resident time plus missing
bytes over the rates that were measured in the same minute for copies and the disk alone, divided
by what it took. The prefetch here guesses right as often as public measurements say that a next
layer's router does (three in four), as random weights make no router that could be asked.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch
from offloading.baselines import (
    Baseline,
    BaselineBank,
    GlobalLfu,
    LayerLru,
    Pinned,
    WholeLayers,
)
from offloading.model import Pages, Shape, forget, make_checkpoint
from torch import Tensor

from lite_llm.checkpoint import open_checkpoint
from lite_llm.contracts.tiers import Medium
from lite_llm.experts import (
    DEFAULT,
    LRU,
    Ahead,
    Bank,
    ExpertCache,
    ExpertSettings,
    LayerExperts,
    Policy,
    Routed,
    Statistics,
    Throttle,
    synthetic_trace,
)
from lite_llm.experts.belady import optimal_hits
from lite_llm.experts.traces import Trace
from lite_llm.kernels import set_threads
from lite_llm.models import Decoder, load_decoder, open_expert_cache, parse_config, take_inventory
from lite_llm.models.moe import MoeBlock
from lite_llm.tiers import DiskReader, LocalSource, RecordReader

FULL = Shape(layers=24, experts=64, top_k=8, hidden=1024, inner=512)
QUICK = Shape(layers=8, experts=64, top_k=8, hidden=512, inner=256)
RIGHT = 0.75
"""How often the next layer's router is, asked a layer early (JustVugg/colibri#200: 72 to 74 %)."""


@dataclass
class Result:
    """Of one contestant at one budget."""

    name: str
    hot_percent: int
    token_ms: float
    """Median."""
    p95_ms: float
    hit_rate: float
    warm_mb: float
    """Copied a token from warm memory, in millions of bytes."""
    disk_mb: float
    formula: float = 0.0
    belady: float = 0.0
    """Hit rate over the best possible."""
    mismatches: int = 0
    """Tokens whose hidden state differs in any bit from the resident model's."""


class Choice:
    """A router that chooses what the trace says."""

    def __init__(self, trace: Trace, index: int) -> None:
        self._experts = torch.from_numpy(trace.experts_RLK[:, index].astype("int64"))
        self._weights = torch.from_numpy(trace.weights_RLK[:, index].astype("float32"))
        self.row = 0

    def route(self, scores_TE: Tensor, **_: object) -> Routed:
        rows = slice(self.row, self.row + 1)
        return Routed(self._experts[rows], self._weights[rows])


class Guess:
    """The next layer's choice, with a quarter of it wrong."""

    def __init__(self, choice: Choice, num_experts: int, seed: int) -> None:
        self._choice = choice
        self._num_experts = num_experts
        self._random = random.Random(seed)

    def __call__(self, x_TD: Tensor) -> Routed:
        routed = self._choice.route(x_TD)
        guessed = [
            expert if self._random.random() < RIGHT else self._random.randrange(self._num_experts)
            for expert in routed.experts_TK[0].tolist()
        ]
        return Routed(torch.tensor([sorted(set(guessed))]), routed.weights_TK)


class Bench:
    """One decoder whose experts are exchanged, and the trace that it follows."""

    def __init__(self, directory: Path, shape: Shape, trace: Trace) -> None:
        self.directory, self.shape, self.trace = directory, shape, trace
        self.reader = open_checkpoint(directory)
        self.config = parse_config(self.reader.manifest.architecture)
        self.inventory = take_inventory(self.reader.manifest, self.config)
        *_, decoder = load_decoder(self.reader, self.config)
        assert isinstance(decoder, Decoder)
        self.decoder = decoder
        self.blocks: list[MoeBlock] = []
        self.choices: list[Choice] = []
        for index in range(shape.layers):
            block = decoder.weights.get(index).ffn
            assert isinstance(block, MoeBlock)
            self.blocks.append(block)
            self.choices.append(Choice(trace, index))
            block._router = self.choices[-1]  # type: ignore[assignment]  # the trace decides
        self.gating = [block.experts._gating for block in self.blocks]
        third = trace.num_rows // 3
        self.fill, self.timed = range(third), range(third, trace.num_rows)
        self.expected = self.run(self.timed)[1]

    def use(self, bank_of: Callable[[int], Bank]) -> None:
        """Exchange all layers' experts."""
        for index, block in enumerate(self.blocks):
            block.experts = LayerExperts(index, bank_of(index), self.gating[index])

    def run(self, rows: range) -> tuple[list[float], list[Tensor]]:
        """Milliseconds of each token, and its hidden state."""
        pages = Pages(self.decoder.kv_layout, rows.stop)
        took, hidden = [], []
        for row in rows:
            for choice in self.choices:
                choice.row = row
            token = torch.tensor([row % 500])
            began = perf_counter()
            hidden.append(
                self.decoder.hidden(
                    token, torch.tensor([row - rows.start]), pages.step(row - rows.start)
                )
            )
            took.append(1000 * (perf_counter() - began))
        return took, hidden

    @contextmanager
    def cache(
        self, percent: int, *, policy: Policy = LRU, readers: int = 4, apart: bool = True
    ) -> Iterator[ExpertCache]:
        """Hot slots for so many of the experts, warm memory for half."""
        total = self.shape.num_bytes
        settings = ExpertSettings(
            hot_bytes=total * percent // 100,
            warm_bytes=total // 2,
            policy=policy,
            readers=readers,
            apart=apart,
        )
        forget(self.directory)
        disk = DiskReader(threads=1)
        records = RecordReader(self.inventory.manifest, [LocalSource(self.directory)], reader=disk)
        cache = open_expert_cache(self.inventory, records, settings)
        try:
            yield cache
        finally:
            self.use(lambda layer: _Nobody())
            cache.close()
            records.close()
            disk.close()


class _Nobody:
    def __len__(self) -> int:
        return 0

    def bring(self, packing: object) -> Any:
        raise AssertionError("a contestant has gone")


@dataclass(frozen=True)
class Rates:
    """Bytes a second, with nothing else going on."""

    copy: float
    disk: float
    resident_ms: float


def measured_rates(bench: Bench, resident_ms: float) -> Rates:
    """As many experts as a token uses, from warm memory and from the disk, all at once."""
    count = min(bench.shape.layers * bench.shape.top_k, 96)
    with bench.cache(25) as cache:
        cold = _fetch(cache, count)
        warm = median(_fetch(cache, count, again=True) for _ in range(5))
    return Rates(warm, cold, resident_ms)


def _fetch(cache: ExpertCache, count: int, *, again: bool = False) -> float:
    experts = range(count)
    slots = cache.slots[count : 2 * count] if again else cache.slots[:count]
    for slot in slots:
        slot.content = None
    if not again:
        for expert in experts:
            layer = cache.keys[expert].layer
            cache.fetcher.release(cache.fetcher.demand(layer, [expert], ()))
    began = perf_counter()
    jobs = [cache.fetcher.start(expert, slot) for expert, slot in zip(experts, slots, strict=True)]
    for job in jobs:
        job.wait()
    seconds = perf_counter() - began
    return count * len(cache.slots[0].memory) / seconds


def measure(
    bench: Bench, name: str, percent: int, cache: ExpertCache, fill: range, timed: range,
    hits: Callable[[], tuple[int, int]],
) -> Result:  # fmt: skip
    bench.run(fill)
    tally = cache.fetcher.tally
    before = (dict(tally.num_bytes), *hits())
    took, hidden = bench.run(timed)
    wrong = sum(not torch.equal(*pair) for pair in zip(hidden, bench.expected, strict=False))
    moved = {medium: tally.num_bytes[medium] - before[0].get(medium, 0) for medium in Medium}
    new_hits, new_misses = hits()[0] - before[1], hits()[1] - before[2]
    disk = sum(moved[medium] for medium in Medium if medium > Medium.DRAM)
    return Result(
        name, percent, median(took), quantiles(took, n=20)[-1], new_hits / (new_hits + new_misses),
        moved[Medium.DRAM] / len(timed) / 1e6, disk / len(timed) / 1e6, mismatches=wrong,
    )  # fmt: skip


def ours(bench: Bench, percent: int, policy: Policy, *, early: bool, readers: int = 4) -> Result:
    """With or without fetching early."""
    name = {1: "B5 device LRU, one copy engine"}.get(readers, "ours, early" if early else "ours")
    with bench.cache(percent, policy=policy, readers=readers) as cache:
        bench.use(cache.bank)
        if early:
            throttle = Throttle()
            for index, block in enumerate(bench.blocks[:-1]):
                guess = Guess(bench.choices[index + 1], bench.shape.experts, index)
                block.experts.ahead = Ahead(cache, throttle, index + 1, guess)
        counts = cache.table.counts
        return measure(
            bench, name, percent, cache, bench.fill, bench.timed,
            lambda: (counts.hits, counts.loads + counts.bypasses),
        )  # fmt: skip


def baseline(
    bench: Bench, percent: int, name: str, make: Callable[[ExpertCache], Baseline], share: float
) -> Result:
    """One of the others; ``share``: of the timed rows, for the slow ones."""
    with bench.cache(percent) as cache:
        made = make(cache)
        bench.use(lambda layer: BaselineBank(made, layer))
        # A slow one has no cache to fill, and a few tokens tell its time.
        is_slow = share < 1
        timed = bench.timed[: max(4, round(len(bench.timed) * share))]
        fill = bench.fill[-1:] if is_slow else bench.fill
        try:
            return measure(
                bench, name, percent, cache, fill, timed, lambda: (made.hits, made.misses)
            )
        finally:
            vars(made).clear()  # which holds slots


def with_formula(result: Result, rates: Rates) -> Result:
    """Resident time and every missing byte at the rate of its medium, over what it took."""
    link_ms = 1e9 * (result.warm_mb / rates.copy + result.disk_mb / rates.disk)
    result.formula = (rates.resident_ms + link_ms) / result.token_ms
    return result


def contestants(bench: Bench, percent: int, rates: Rates) -> Iterator[Result]:
    third = len(bench.fill)
    slots = bench.shape.layers * bench.shape.experts * percent // 100
    is_hit = optimal_hits(bench.trace.demands, slots)
    timed_at = int(bench.trace.demands.start_D[third * bench.shape.layers])
    best = float(is_hit[timed_at:].mean())
    used: Counter[int] = Counter()
    for index in range(bench.shape.layers):
        chosen = bench.trace.experts_RLK[:third, index].flatten().tolist()
        used.update(index * bench.shape.experts + int(expert) for expert in chosen)
    runs: list[Callable[[], Result]] = [
        lambda: ours(bench, percent, DEFAULT, early=False),
        lambda: ours(bench, percent, DEFAULT, early=True),
        lambda: ours(bench, percent, LRU, early=False, readers=1),
        lambda: baseline(bench, percent, "B1 whole layers", WholeLayers, 0.05),
        lambda: baseline(bench, percent, "B2 LRU a layer, copied back", LayerLru, 1),
        lambda: baseline(bench, percent, "B3 LFU, synchronous", GlobalLfu, 1),
        lambda: baseline(bench, percent, "B4 pinned by frequency", lambda c: Pinned(c, used), 1),
    ]
    for run in runs:
        result = with_formula(run(), rates)
        result.belady = result.hit_rate / best if best else 0.0
        print(result, file=sys.stderr, flush=True)
        yield result


def in_the_path(bench: Bench, resident: range) -> tuple[float, float]:
    """Resident milliseconds without the cache and with it, all experts in its slots."""
    plain, _ = bench.run(resident)
    banks = [block.experts._bank for block in bench.blocks]
    with_it: list[float] = []
    without: list[float] = plain[len(plain) // 3 :]
    with bench.cache(101) as cache:
        cached = [cache.bank(layer) for layer in range(bench.shape.layers)]
        bench.use(lambda layer: cached[layer])
        bench.run(resident)
        for _ in range(3):
            bench.use(lambda layer: cached[layer])
            with_it += bench.run(resident)[0]
            bench.use(lambda layer: banks[layer])
            without += bench.run(resident)[0]
    bench.use(lambda layer: banks[layer])
    return median(without), median(with_it)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the weights")
    parser.add_argument("--budgets", type=int, nargs="+", default=[10, 25, 50], help="percent")
    parser.add_argument("--tokens", type=int, default=0)
    parser.add_argument("--directory", type=Path, help="keep the model here")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="that compute")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    set_threads(given.threads)
    shape = QUICK if given.quick else FULL
    tokens = given.tokens or (96 if given.quick else 48)
    trace = synthetic_trace(
        Statistics(
            layers=shape.layers, experts=shape.experts, top_k=shape.top_k, tokens=tokens, sessions=1
        )
    )
    with tempfile.TemporaryDirectory() as temporary:
        directory = make_checkpoint(given.directory or Path(temporary), shape)
        bench = Bench(directory, shape, trace)
        without, with_it = in_the_path(bench, range(min(16, tokens)))
        for block in bench.blocks:
            block.experts = LayerExperts(0, _Nobody(), bench.gating[0])
        rates = measured_rates(bench, without)
        results = [
            result for percent in given.budgets for result in contestants(bench, percent, rates)
        ]
    if given.json:
        shown = [asdict(result) for result in results]
        print(json.dumps({"rates": asdict(rates), "with_cache_ms": with_it, "results": shown}))
    else:
        report(rates, with_it, results)


def report(rates: Rates, with_cache_ms: float, results: Sequence[Result]) -> None:
    """As the tables of docs/benchmarks/experts.md."""
    ratio = rates.resident_ms / with_cache_ms
    print(f"resident: {rates.resident_ms:.1f} ms a token; with the cache in the path {ratio:.2f}x")
    print(f"copies {rates.copy / 1e9:.1f} GB/s, disk {rates.disk / 1e9:.2f} GB/s")
    head = ("hot", "", "ms a token", "p95", "hits", "of Belady's", "warm MB", "disk MB", "formula")
    print(f"| {' | '.join((*head, 'differ'))} |")
    print("|---" * (len(head) + 1) + "|")
    for r in results:
        cells = (
            f"{r.hot_percent} %", r.name, f"{r.token_ms:.1f}", f"{r.p95_ms:.1f}",
            f"{r.hit_rate:.3f}", f"{r.belady:.2f}", f"{r.warm_mb:.0f}", f"{r.disk_mb:.0f}",
            f"{r.formula:.2f}", str(r.mismatches),
        )  # fmt: skip
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
