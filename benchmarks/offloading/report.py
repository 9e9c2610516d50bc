"""What a run of benchmarks/experts.py found, as the tables of docs/benchmarks/experts.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

OURS, COPIED = "ours", "ours, copied"


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
    memory: float = 0.0
    """Anonymous memory that it took, over the budgets that were declared."""


@dataclass(frozen=True)
class Rates:
    """Bytes a second, with nothing else going on."""

    copy: float
    disk: float
    resident_ms: float


def report(rates: Rates, with_cache_ms: float, results: Sequence[Result]) -> Iterator[str]:
    """Lines."""
    ratio = rates.resident_ms / with_cache_ms
    yield f"resident: {rates.resident_ms:.1f} ms a token; with the cache in the path {ratio:.2f}x"
    yield f"copies {rates.copy / 1e9:.1f} GB/s, disk {rates.disk / 1e9:.2f} GB/s"
    head = (
        "hot", "", "ms a token", "p95", "hits", "of Belady's", "warm MB", "disk MB", "formula",
        "memory", "differ",
    )  # fmt: skip
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for r in results:
        cells = (
            f"{r.hot_percent} %", r.name, f"{r.token_ms:.1f}", f"{r.p95_ms:.1f}",
            f"{r.hit_rate:.3f}", f"{r.belady:.2f}", f"{r.warm_mb:.0f}", f"{r.disk_mb:.0f}",
            f"{r.formula:.2f}", f"{r.memory:.2f}", str(r.mismatches),
        )  # fmt: skip
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield from _goals(ratio, results)


def _goals(in_the_path: float, results: Sequence[Result]) -> Iterator[str]:
    """What was to be reached, and what was."""
    by = {(result.name[:2], result.hot_percent): result for result in results}
    yield f"| goal | {OURS} | {COPIED} |"
    yield "|---|---|---|"
    for other, percent, goal in (
        ("B1", 25, 10), ("B2", 25, 2), ("B3", 25, 2), ("B2", 50, 3), ("B3", 50, 3)
    ):  # fmt: skip
        if (theirs := by.get((other, percent))) is not None:
            ratios = (theirs.token_ms / each.token_ms for each in _both(results, percent))
            yield _row(f"{percent} %: against {other}, {goal}x", (f"{r:.1f}x" for r in ratios))
    for percent in sorted({result.hot_percent for result in results}):
        both = _both(results, percent)
        yield _row(f"{percent} %: of the formula, 0.75", (f"{r.formula:.2f}" for r in both))
        yield _row(f"{percent} %: of Belady's hits, 0.9", (f"{r.belady:.2f}" for r in both))
        yield _row(f"{percent} %: of declared memory, at most 1", (f"{r.memory:.2f}" for r in both))
    yield _row("all resident, cache in the path: 0.95x", [f"{in_the_path:.2f}x"] * 2)
    yield _row("tokens with other bits: 0", [str(sum(r.mismatches for r in results))] * 2)


def _both(results: Sequence[Result], percent: int) -> list[Result]:
    return [r for r in results if r.name in (OURS, COPIED) and r.hot_percent == percent]


def _row(goal: str, cells: Iterable[str]) -> str:
    return f"| {goal} | {' | '.join(cells)} |"
