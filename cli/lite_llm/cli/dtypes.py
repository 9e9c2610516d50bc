"""``up --dtype``: checkpoints of this machine in another dtype, converted beforehand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from lite_llm.checkpoint import ConvertOptions, convert
from lite_llm.cli.checkpoints import byte_bar
from lite_llm.cli.declarations import Declaration
from lite_llm.contracts.errors import Unsupported


def converted(
    declarations: Iterable[Declaration], dtype: str, directory: Path
) -> tuple[Declaration, ...]:
    """Each as a checkpoint below ``directory``, whose floats are ``dtype``; empty: as they are.

    Raises :class:`Unsupported` for what lies in a store, and what :func:`convert` does.
    """
    if not dtype:
        return tuple(declarations)
    return tuple(_converted(declaration, dtype, directory) for declaration in declarations)


def _converted(declaration: Declaration, dtype: str, directory: Path) -> Declaration:
    source = declaration.directory
    if source is None:
        raise Unsupported(
            f"{declaration.uri} can't be converted on its way",
            where="--dtype",
            remedy="fetch it, convert it with `lite-llm convert --dtype`, and name the directory",
        )
    target = directory / declaration.model.name
    with byte_bar(f"{declaration.model.name} as {dtype}") as bar:
        for progress in convert(source, target, ConvertOptions(dtype=dtype)):
            bar.update(bar.task_ids[0], completed=progress.done_bytes, total=progress.total_bytes)
    return replace(declaration, uri=target.resolve().as_uri())
