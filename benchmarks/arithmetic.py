"""The room `kernels` beside the machine's ceilings: read bandwidth, and torch's float32 GEMM.

    python benchmarks/arithmetic.py [--threads 2] [--rounds 15] [--quick] [--json]

Each round measures ours, torch's and the ceiling in turn, so that a busy moment falls on all of
them; a rate is the median over the rounds, a ratio the median of the rounds' ratios. Rows of a
single product are weighed in bytes of weights a second, more rows in multiply-adds.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter

import torch

from lite_llm.kernels import (
    Activation,
    LayerPages,
    PagedKv,
    Rows,
    attend,
    fast,
    gated,
    linear,
    rms_norm,
    rotate,
    set_threads,
    store,
    warm_up,
)

WARM_UP = """
import time
import lite_llm.kernels as kernels
begin = time.process_time()
kernels.warm_up()
print(time.process_time() - begin)
"""


@dataclass(frozen=True)
class Result:
    """One line of the report."""

    what: str
    unit: str
    ours: float
    torch: float
    ceiling: float
    ratio: float
    """Ours to the ceiling."""


def seconds(function: Callable[[], object]) -> float:
    begin = perf_counter()
    function()
    return perf_counter() - begin


def repeated(function: Callable[[], object], times: int = 200) -> float:
    """Seconds a call, of many."""
    begin = perf_counter()
    for _ in range(times):
        function()
    return (perf_counter() - begin) / times


def race(
    what: str,
    unit: str,
    work: float,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    ceiling: tuple[float, Callable[[], object]] | None,
    rounds: int,
) -> Result:
    """``work`` is what one call of ours gets done; the ceiling's work comes with it."""
    ceiling_work, ceiling_call = ceiling or (work, theirs)
    contestants = [(work, ours), (work, theirs), (ceiling_work, ceiling_call)]
    for _, call in contestants:
        call()
    rates = [[amount / seconds(call) for amount, call in contestants] for _ in range(rounds)]
    own, other, limit = (statistics.median(column) for column in zip(*rates, strict=True))
    ratio = statistics.median(rate[0] / rate[2] for rate in rates)
    return Result(what, unit, own, other, limit, ratio)


def products(dtype: torch.dtype, rounds: int, scale: int) -> list[Result]:
    """One row against the read bandwidth, many against torch's float32 product."""
    name, results = str(dtype).removeprefix("torch."), []
    K, N = 2048, 16384 // scale
    weight, block = torch.randn(N, K).to(dtype), torch.randn((64 << 20) // scale)
    x = torch.randn(1, K).to(dtype)
    results.append(
        race(
            f"linear {name} T=1",
            "GB/s",
            weight.nbytes / 1e9,
            lambda: linear(x, weight),
            lambda: torch.mm(x, weight.T),
            (block.nbytes / 1e9, lambda: block.sum()),
            rounds,
        )
    )
    weight = weight[: N // 4].contiguous()
    wide = weight.float()
    for rows in (2, 8, 32, 128, 512):
        many = torch.randn(rows, K).to(dtype)
        many_wide, work = many.float(), 2e-9 * rows * weight.numel()
        ours = functools.partial(linear, many, weight)
        theirs = functools.partial(torch.mm, many, weight.T)
        limit = functools.partial(torch.mm, many_wide, wide.T)
        what = f"linear {name} T={rows}"
        results.append(race(what, "GFLOP/s", work, ours, theirs, (work, limit), rounds))
    return results


def attention(dtype: torch.dtype, rounds: int) -> list[Result]:
    """Against torch's scaled_dot_product_attention on the same pages; no further ceiling."""
    name, results = str(dtype).removeprefix("torch."), []
    heads, groups, size, page, length = 16, 4, 64, 16, 2048
    pages = length // page
    pool = [torch.randn(pages, groups, page, size).to(dtype) for _ in range(2)]
    table = torch.randperm(pages, generator=torch.Generator().manual_seed(0)).int()[None]
    for rows in (1, 512):
        at = Rows(
            torch.zeros(rows, dtype=torch.int32),
            torch.arange(length - rows, length, dtype=torch.int32),
            table,
        )
        query, where = torch.randn(rows, heads, size).to(dtype), LayerPages(PagedKv(*pool), at)

        def ours(query: torch.Tensor = query, where: LayerPages = where) -> None:
            attend(query, where, scale=0.125)

        def theirs(call: Callable[[], None] = ours) -> None:
            with fast():
                call()

        work = 4e-9 * heads * size * sum(range(length - rows + 1, length + 1))
        results.append(race(f"attend {name} T={rows}", "GFLOP/s", work, ours, theirs, None, rounds))
    return results


def overheads() -> dict[str, float]:
    """Microseconds of the smallest call: what Python and the launch cost."""
    x, weight, turn = torch.randn(1, 64), torch.randn(16, 64), torch.randn(1, 16)
    heads, int32 = torch.randn(1, 4, 16), torch.int32
    kv = PagedKv(torch.zeros(1, 4, 16, 16), torch.zeros(1, 4, 16, 16))
    first = torch.zeros(1, dtype=int32)
    where = LayerPages(kv, Rows(first, first, torch.zeros(1, 1, dtype=int32)))
    calls: dict[str, Callable[[], object]] = {
        "torch.mm": lambda: torch.mm(x, weight.T),
        "linear": lambda: linear(x, weight),
        "rms_norm": lambda: rms_norm(x, x[0], 1e-6),
        "rotate": lambda: rotate(heads, turn, turn),
        "gated": lambda: gated(x, x, Activation.SILU),
        "store": lambda: store(where, heads, heads),
        "attend": lambda: attend(heads, where, scale=0.25),
    }
    return {name: 1e6 * min(repeated(call) for _ in range(10)) for name, call in calls.items()}


def compile_seconds() -> tuple[float, float]:
    """Processor seconds of ``warm_up`` without and with a filled cache."""
    with tempfile.TemporaryDirectory() as directory:
        environment = {**os.environ, "NUMBA_CACHE_DIR": directory}
        cold, warm = (
            float(subprocess.check_output([sys.executable, "-c", WARM_UP], env=environment))
            for _ in range(2)
        )
    return cold, warm


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="smaller and fewer")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    set_threads(options.threads)
    warm_up()
    rounds, scale = (3, 8) if options.quick else (options.rounds, 1)
    results: list[Result] = []
    for dtype in (torch.float32, torch.bfloat16):
        results += products(dtype, rounds, scale) + attention(dtype, rounds)
    micro, (cold, warm) = overheads(), compile_seconds()
    if options.json:
        lines = [asdict(result) for result in results]
        print(json.dumps({"results": lines, "us": micro, "compile_s": [cold, warm]}))
        return
    print(f"threads {options.threads}, load average {os.getloadavg()[0]:.1f}")
    print(f"{'what':24} {'unit':8} {'ours':>8} {'torch':>8} {'ceiling':>8} {'ratio':>6}")
    for line in results:
        figures = f"{line.ours:8.1f} {line.torch:8.1f} {line.ceiling:8.1f} {line.ratio:6.2f}"
        print(f"{line.what:24} {line.unit:8} {figures}")
    print("microseconds a call:", ", ".join(f"{name} {us:.1f}" for name, us in micro.items()))
    print(f"warm_up: {cold:.1f} s of processor time cold, {warm:.1f} s from the cache")


if __name__ == "__main__":
    main()
