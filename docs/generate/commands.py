"""The command line, from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer
from markdown import code, page, table

from lite_llm.cli.app import app


def commands_page() -> str:
    """Every command with its arguments and options."""
    root = typer.main.get_command(app)
    parts = [_command(name, command) for name, command in _commands("lite-llm", root)]
    return page(
        "Command line",
        "Exit statuses are those of the [errors](errors.md). Shell completion: "
        "`lite-llm --install-completion`.",
        *parts,
    )


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield name, command
        return
    for child, inner in sorted(children.items()):
        if not inner.hidden:
            yield from _commands(f"{name} {child}", inner)


def _command(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    shown = [each for each in command.params if not getattr(each, "hidden", False)]
    rows = [_parameter(each, context) for each in shown]
    titles = ("option", "environment", "default", "what")
    told = inspect.cleandoc(command.help or "")
    return "\n\n".join(filter(None, [f"## {name}", told, table(titles, rows) if rows else ""]))


def _parameter(parameter: Any, context: Any) -> tuple[str, str, str, str]:
    if parameter.param_type_name == "argument":
        words = code(parameter.name.upper())
    else:
        shown = [*parameter.opts, *parameter.secondary_opts]
        kind = (
            "" if parameter.is_flag else f" {parameter.metavar or parameter.display_type(context)}"
        )
        words = code(", ".join(shown) + kind)
    default = parameter.default
    has_default = default not in (None, "", False, ()) and not callable(default)
    variable = parameter.envvar if isinstance(parameter.envvar, str) else ""
    what = getattr(parameter, "help", "") or ""
    if parameter.required:
        what = f"{what} Required.".strip()
    return words, code(variable), code(str(default)) if has_default else "", what
