"""``python -m lite_llm.training``: the demo model from scratch, or from where it stopped."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from lite_llm.contracts import LiteLLMError, outcome_of
from lite_llm.training.card import measured, write_card
from lite_llm.training.corpus import Corpus, standard_library
from lite_llm.training.curve import draw_curve
from lite_llm.training.export import write_checkpoint
from lite_llm.training.recipe import DEMO, Recipe
from lite_llm.training.trainer import Step, read_log, train, trained
from lite_llm.training.vocabulary import tokens_of, trained_tokenizer

MODEL, VERSION = "demo", "demo-v0.1.0"
CURVE_NAME = "loss.svg"

console = Console(stderr=True)


def main(
    out: Annotated[Path, typer.Option(help="Directory of the checkpoint, which is replaced.")],
    work: Annotated[
        Path, typer.Option(help="State of the run: it goes on from there if it was stopped.")
    ] = Path("build/train-demo"),
    corpus: Annotated[
        Path | None, typer.Option(help="A lib/python3.x. Left out: this interpreter's.")
    ] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between saved states.")] = 25,
) -> None:
    """Train the demo model and write its checkpoint, signed with the demo key, and its card.

    Two cores need less than an hour. Killed, it goes on where it was with the same command.
    """
    files = standard_library(corpus)
    console.print(f"corpus: {len(files.files)} files, {files.num_bytes:,} bytes, {files.origin}")
    with console.status("training the tokenizer"):
        tokenizer = trained_tokenizer(files.training(), DEMO.shape.vocab)
        tokens_N = tokens_of(files.training(), tokenizer)
    _show(DEMO, tokens_N, files, work, save_every)
    parameters = trained(work, DEMO, corpus_digest=files.digest)
    assert parameters is not None, "the run has just come to its end"
    write_checkpoint(out, DEMO.shape, parameters, tokenizer, name=MODEL, version=VERSION)
    steps = read_log(work)
    draw_curve(steps, out / CURVE_NAME, title="Demo model")
    with console.status("measuring the checkpoint on held-out files"):
        figures = measured(out, files)
    write_card(out, DEMO, files, steps, figures, num_tokens=len(tokens_N), curve=CURVE_NAME)
    console.print(f"{out}: {figures.bits['max']:.3f} bits per held-out byte under all tiers")


def _show(recipe: Recipe, tokens_N: Tensor, corpus: Corpus, work: Path, save_every: int) -> None:
    steps: Iterator[Step] = train(
        recipe, tokens_N, work, corpus_digest=corpus.digest, save_every=save_every
    )
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=recipe.steps)
        for step in steps:
            progress.update(task, completed=step.step, description=f"loss {step.loss:.3f}")


def run(arguments: Sequence[str] | None = None) -> None:
    """As a program: our errors are one line and their exit status."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app(arguments)
    except LiteLLMError as error:
        console.print(f"training: {error}")
        sys.exit(outcome_of(error).exit)


if __name__ == "__main__":
    run()
