"""Experts that don't fit, beside other engines' ways to run them: same weights, same choices.

    python benchmarks/experts.py [--quick] [--budgets 10 25 50] [--directory DIR] [--json]

A mixture of experts of random weights (4.0 GB in 20 layers of 64; --quick: 0.4 GB in 8) decodes one
sequence, whose routers choose what a trace says: one made with the statistics that real models'
traces have, so that all contestants need the same experts. Hot slots hold 10, 25 or 50 % of them,
warm memory half, the rest comes from the disk, past the page cache. Each contestant's slots are
filled by the first three quarters of the trace, without computing; then steps are timed, one by
one. "formula" is resident time plus missing bytes over the rates that were measured in the same
minute for copies and the disk alone, divided by what it took. "ours" is what a machine without a
device does: hot and warm budget are one pool, and nothing is copied. "ours, copied" keeps them
apart as a device's memory and the host's are, like all others here; its early fetches guess right
as often as public measurements say that a next layer's router does (three in four), as random
weights make no router that could be asked. Belady's optimum has the slots that the contestant has.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
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
from offloading.report import COPIED, OURS, Rates, Result, report
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
    ResidentBank,
    Routed,
    Statistics,
    Throttle,
    synthetic_trace,
)
from lite_llm.experts.belady import optimal_hits
from lite_llm.experts.packing import packing_of
from lite_llm.experts.traces import Trace
from lite_llm.kernels import set_threads
from lite_llm.models import Decoder, load_decoder, open_expert_cache, parse_config, take_inventory
from lite_llm.models.moe import MoeBlock
from lite_llm.tiers import DiskReader, LocalSource, RecordReader

FULL = Shape(layers=20, experts=64, top_k=8, hidden=1024, inner=512)
QUICK = Shape(layers=8, experts=64, top_k=8, hidden=512, inner=256)
RIGHT = 0.75
"""How often the next layer's router is, asked a layer early (JustVugg/colibri#200: 72 to 74 %)."""


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
        self.blocks: list[MoeBlock] = []
        self.choices = [Choice(trace, index) for index in range(shape.layers)]
        third = trace.num_rows // 4
        self.fill, self.timed = range(3 * third), range(3 * third, trace.num_rows)
        with self.cache(102, warm_percent=2) as cache:
            *_, decoder = load_decoder(self.reader, self.config, cache)
            assert isinstance(decoder, Decoder)
            self.decoder = decoder
            for index in range(shape.layers):
                block = decoder.weights.get(index).ffn
                assert isinstance(block, MoeBlock)
                block._router = self.choices[index]  # type: ignore[assignment]  # the trace decides
                self.blocks.append(block)
            self.gating = [block.experts._gating for block in self.blocks]
            self.resident_ms, self.cached_ms, self.expected = self._resident(cache)
        self.idle_bytes = anonymous_bytes()

    def _resident(self, cache: ExpertCache) -> tuple[float, float, list[Tensor]]:
        """Milliseconds of a token without the cache and with it, all experts in its slots."""
        weights = []
        for expert in range(len(cache.keys)):
            place = cache.table.find(expert)
            assert place is not None, "all are held"
            slot = cache.slots[place.slot]
            if slot.coming is not None:
                slot.coming[1].wait()
            weights.append(cache.weights(expert, slot))
        count = self.shape.layers
        plain = [
            ResidentBank([weights[number] for number in cache.numbers[layer]])
            for layer in range(count)
        ]
        cached = [cache.bank(layer) for layer in range(count)]
        self.use(lambda layer: plain[layer])
        expected = self.run(self.timed)[1]
        without, with_it = list[float](), list[float]()
        for _ in range(5):
            self.use(lambda layer: cached[layer])
            with_it += self.run(self.timed[:16])[0]
            self.use(lambda layer: plain[layer])
            without += self.run(self.timed[:16])[0]
        return median(without), median(with_it), expected

    def use(self, bank_of: Callable[[int], Bank]) -> None:
        """Exchange all layers' experts."""
        for index, block in enumerate(self.blocks):
            block.experts = LayerExperts(index, bank_of(index), self.gating[index])

    def ask(self, rows: range) -> None:
        """Have the layers' experts brought as these rows need them, and compute nothing."""
        for row in rows:
            for choice, block in zip(self.choices, self.blocks, strict=True):
                choice.row = row
                for _ in block.experts._bank.bring(packing_of(choice.route(torch.empty(0)))):
                    pass

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
        self,
        percent: int,
        *,
        warm_percent: int = 50,
        policy: Policy = LRU,
        readers: int = 4,
        apart: bool = True,
    ) -> Iterator[ExpertCache]:
        """Hot slots and warm memory for so many of the experts."""
        total = self.shape.num_bytes
        settings = ExpertSettings(
            hot_bytes=total * percent // 100,
            warm_bytes=max(total * warm_percent // 100, 16 * self.shape.expert_bytes),
            policy=policy,
            readers=readers,
            apart=apart,
            prefetch=False,
        )
        forget(self.directory)
        disk = DiskReader(threads=1)
        records = RecordReader(self.inventory.manifest, [LocalSource(self.directory)], reader=disk)
        cache = open_expert_cache(self.inventory, records, settings)
        try:
            yield cache
        finally:
            self.use(lambda layer: _Nobody())
            gc.collect()
            cache.close()
            records.close()
            disk.close()


class _Nobody:
    def __len__(self) -> int:
        return 0

    def bring(self, packing: object) -> Any:
        raise AssertionError("a contestant has gone")


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
    declared = cache.settings.hot_bytes + cache.settings.warm_bytes
    bench.ask(fill)
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
        memory=(anonymous_bytes() - bench.idle_bytes) / declared,
    )  # fmt: skip


def anonymous_bytes() -> int:
    """Of this process, in memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) << 10


def ours(
    bench: Bench, percent: int, name: str, policy: Policy, *, apart: bool = True,
    early: bool = False, readers: int = 4,
) -> Result:  # fmt: skip
    """With or without fetching early."""
    with bench.cache(percent, policy=policy, readers=readers, apart=apart) as cache:
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
    """Every one of them at one budget."""
    timed_at = int(bench.trace.demands.start_D[bench.timed.start * bench.shape.layers])
    experts = bench.shape.layers * bench.shape.experts
    best = {
        share: float(optimal_hits(bench.trace.demands, experts * share // 100)[timed_at:].mean())
        for share in (percent, min(100, percent + 50))
    }
    used: Counter[int] = Counter()
    for index in range(bench.shape.layers):
        chosen = bench.trace.experts_RLK[bench.fill, index].flatten().tolist()
        used.update(index * bench.shape.experts + int(expert) for expert in chosen)
    runs: list[Callable[[], Result]] = [
        lambda: ours(bench, percent, OURS, DEFAULT, apart=False),
        lambda: ours(bench, percent, COPIED, DEFAULT),
        lambda: ours(bench, percent, "ours, copied, early", DEFAULT, early=True),
        lambda: ours(bench, percent, "B5 device LRU, one copy engine", LRU, readers=1),
        lambda: baseline(bench, percent, "B1 whole layers", WholeLayers, 0.1),
        lambda: baseline(bench, percent, "B2 LRU a layer, copied back", LayerLru, 1),
        lambda: baseline(bench, percent, "B3 LFU, synchronous", GlobalLfu, 1),
        lambda: baseline(bench, percent, "B4 pinned by frequency", lambda c: Pinned(c, used), 1),
    ]
    for run in runs:
        result = with_formula(run(), rates)
        result.belady = result.hit_rate / best[min(100, percent + 50 * (result.name == OURS))]
        print(result, file=sys.stderr, flush=True)
        yield result


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
    tokens = given.tokens or 64
    trace = synthetic_trace(
        Statistics(
            layers=shape.layers, experts=shape.experts, top_k=shape.top_k, tokens=tokens, sessions=1
        )
    )
    with tempfile.TemporaryDirectory() as temporary:
        directory = make_checkpoint(given.directory or Path(temporary), shape)
        bench = Bench(directory, shape, trace)
        rates = measured_rates(bench, bench.resident_ms)
        results = [
            result for percent in given.budgets for result in contestants(bench, percent, rates)
        ]
    if given.json:
        shown = [asdict(result) for result in results]
        told = {"rates": asdict(rates), "with_cache_ms": bench.cached_ms, "results": shown}
        print(json.dumps(told))
    else:
        for line in report(rates, bench.cached_ms, results):
            print(line)


if __name__ == "__main__":
    main()
