"""Entry point: runs a command, and turns our errors into one line and an exit status."""

from __future__ import annotations

import sys

import typer

from lite_llm.cli.app import app
from lite_llm.contracts import LiteLLMError, outcome_of


def main() -> None:
    """Run the command line. Exit statuses are those of :mod:`lite_llm.contracts.outcomes`."""
    try:
        app(prog_name="lite-llm")
    except Exception as error:  # what is not ours is raised again
        ours = _ours_in(error)
        if ours is None:
            raise
        typer.echo(f"lite-llm: {ours}", err=True)
        sys.exit(outcome_of(ours).exit)


def _ours_in(error: BaseException) -> LiteLLMError | None:
    # Programs run their parts in task groups, which wrap what a part fails with.
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_ours_in, error.exceptions)), None)
    return error if isinstance(error, LiteLLMError) else None


if __name__ == "__main__":
    main()
