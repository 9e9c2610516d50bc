"""``lite-llm bench``: what this machine reaches, by commands that need nothing beside it."""

from __future__ import annotations

from typing import Annotated

import typer

from lite_llm.cli.checkpoint_commands import AsJson, Checkpoint

bench = typer.Typer(help="Measure what this machine reaches.", no_args_is_help=True)


@bench.callback()
def group() -> None:
    """Keeps ``load`` a command of its own, though it is the only one so far."""


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
