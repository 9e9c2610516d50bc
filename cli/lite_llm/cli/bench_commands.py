"""``lite-llm bench``: what this machine reaches, by commands that need nothing beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lite_llm.cli.checkpoint_commands import AsJson, Checkpoint

bench = typer.Typer(help="Measure what this machine reaches.", no_args_is_help=True)


@bench.command()
def load(
    path: Checkpoint,
    rounds: Annotated[int, typer.Option(min=1, help="Medians are of this many.")] = 3,
    threads: Annotated[int, typer.Option(min=1, max=64, help="Reading at a time.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Load a checkpoint into memory, cold and warm, beside the disk's raw rate."""
    from lite_llm.cli.load_bench import bench_load_command

    bench_load_command(path, rounds=rounds, threads=threads, as_json=as_json)


@bench.command()
def experts(
    trace: Annotated[
        Path, typer.Option("--replay", metavar="TRACE", help="Recorded choices of routers.")
    ],
    policy: Annotated[
        str, typer.Option(help="Policies and baselines, by name; all: every one.")
    ] = "nearest,lru",
    budget: Annotated[str, typer.Option(help="Slots, as shares of all experts.")] = "10%,25%,50%",
    expert_bytes: Annotated[
        str, typer.Option(metavar="SIZE", help="Of one expert, such as 9MiB: tells bytes moved.")
    ] = "",
    lookahead: Annotated[
        int, typer.Option(min=0, help="Prefetch so many layers ahead; 0: on demand only.")
    ] = 0,
    recall: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="How often the prefetch is right.")
    ] = 0.75,
    seed: Annotated[int, typer.Option(help="Of the order among equals.")] = 0,
    activations: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write how often each expert ran, for convert --tiers."),
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what the first policy does, event by event."),
    ] = None,
    slots: Annotated[
        int, typer.Option(min=0, help="Of those events, as a pool had; 0: the first budget's.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Replay a trace of experts: hits, bytes and waste of any policy, beside the optimum."""
    from lite_llm.cli.experts_bench import bench_experts_command
    from lite_llm.contracts import parse_size
    from lite_llm.experts.replay import Lookahead

    bench_experts_command(
        trace,
        policies=policy,
        budgets=budget,
        expert_bytes=parse_size(expert_bytes) if expert_bytes else 0,
        lookahead=Lookahead(lookahead, recall) if lookahead else None,
        seed=seed,
        activations=activations,
        events=events,
        slots=slots,
        as_json=as_json,
    )
