"""``lite-llm bench experts``: what policies would have done with a recorded trace of experts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import typer

from lite_llm.contracts import format_size
from lite_llm.contracts.errors import InvalidRequest
from lite_llm.experts.activity import Activity
from lite_llm.experts.policies import policy_named
from lite_llm.experts.replay import (
    Lookahead,
    Tally,
    Workload,
    belady,
    contenders,
    events_of,
)
from lite_llm.experts.traces import Trace

_PERCENT: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3})?)%")


def bench_experts_command(
    path: Path,
    *,
    policies: str,
    budgets: str,
    expert_bytes: int,
    lookahead: Lookahead | None,
    seed: int,
    as_json: bool,
    activations: Path | None = None,
    events: Path | None = None,
    slots: int = 0,
) -> None:
    """Replay and print; ``expert_bytes`` of 0: bytes are not told.

    ``activations`` is written for ``convert --tiers``, ``events`` with what the first policy did
    with ``slots``, or with the first budget.
    """
    shares = parse_budgets(budgets)
    names = [name.strip() for name in policies.split(",")]
    if not path.is_file():
        raise InvalidRequest(f"{path} is no file", where=str(path), remedy="name a trace")
    trace = Trace.read(path)
    workload = Workload.of(trace)
    if activations is not None:
        Activity.of(trace).write(activations)
    if events is not None:
        slots = slots or workload.slots(shares[0])
        events_of(trace, policy_named(names[0]), slots, seed=seed).write(events)
    result = {
        "trace": str(path),
        "rows": trace.num_rows,
        "layers": len(trace.experts_of_layer),
        "experts": trace.num_experts,
        "accesses": workload.demands.num_accesses,
        "expert_bytes": expert_bytes,
        "lookahead": None if lookahead is None else asdict(lookahead),
        "seed": seed,
        "budgets": compared(workload, names, shares, lookahead=lookahead, seed=seed),
    }
    if as_json:
        typer.echo(json.dumps(result, sort_keys=True))
        return
    for line in lines_of(result):
        typer.echo(line)


def parse_budgets(text: str) -> list[float]:
    """Shares from 0 to 1 of ``10%,25%,50%``. Raises :class:`InvalidRequest`."""
    shares = []
    for part in text.split(","):
        match = _PERCENT.fullmatch(part.strip())
        if match is None or float(match[1]) > 100.0:
            raise InvalidRequest(
                f"{part.strip()[:40]!r} is not a share of all experts",
                where="--budget",
                remedy="write percentages, such as 10%,25%,50%",
            )
        shares.append(float(match[1]) / 100.0)
    return shares


def compared(
    workload: Workload,
    names: Sequence[str],
    shares: Sequence[float],
    *,
    lookahead: Lookahead | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """For each budget the optimum on demand only, and each policy beside it."""
    found = []
    chosen = contenders(names, lookahead)
    for share in shares:
        num_slots = workload.slots(share)
        best = belady(workload, num_slots)
        replayed = {name: run(workload, num_slots, seed) for name, run in chosen.items()}
        found.append(
            {
                "budget": share,
                "slots": num_slots,
                "belady_hit_rate": best.hit_rate,
                "policies": {name: _measures(tally, best) for name, tally in replayed.items()},
            }
        )
    return found


def _measures(tally: Tally, best: Tally) -> dict[str, Any]:
    return {
        **asdict(tally),
        "hit_rate": tally.hit_rate,
        "of_belady": tally.hits / best.hits if best.hits else None,
    }


def lines_of(result: dict[str, Any]) -> Iterator[str]:
    """The same for people."""
    yield (
        f"{result['trace']}: {result['rows']} rows, {result['layers']} layers, "
        f"{result['experts']} experts, {result['accesses']} accesses"
    )
    if result["lookahead"] is not None:
        ahead = result["lookahead"]
        yield f"prefetching {ahead['layers']} layers ahead with a recall of {ahead['recall']:.2f}"
    size, accesses = result["expert_bytes"], max(1, result["accesses"])
    moved = "bytes moved" if size else "moved/access"
    yield f"budget  {'policy':16} hit rate  of Belady  {moved:>12}  bypassed  wasted"
    for budget in result["budgets"]:
        label = f"{budget['budget']:6.1%}"
        yield f"{label}  {'(Belady)':16} {budget['belady_hit_rate']:8.1%}"
        for name, told in budget["policies"].items():
            share = "-" if told["of_belady"] is None else f"{told['of_belady']:.3f}"
            out = told["fetched"] + told["written_back"]
            volume = format_size(out * size) if size else f"{out / accesses:.3f}"
            wasted = f"{told['wasted_prefetches'] / max(1, told['prefetches']):.1%}"
            bypassed = f"{told['bypasses'] / accesses:.1%}"
            yield (
                f"{'':6}  {name:16} {told['hit_rate']:8.1%}  {share:>9}  {volume:>12}"
                f"  {bypassed:>8}  {wasted:>6}"
            )
