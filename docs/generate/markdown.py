"""Pieces of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def page(title: str, introduction: str, *parts: str) -> str:
    """A whole page; it says where it comes from."""
    note = "<!-- Made by `make reference` from the code: change that instead. -->"
    return "\n\n".join([f"# {title}", note, introduction, *parts]) + "\n"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """With the cells' bars and line breaks made harmless."""
    lines = [_row(titles), _row(["---"] * len(titles)), *map(_row, rows)]
    return "\n".join(lines)


def code(text: str) -> str:
    """Inline code; nothing for nothing."""
    return f"`{text}`" if text else ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"
