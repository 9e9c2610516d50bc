"""Writes docs/reference from what the programs declare: `python docs/generate/write_pages.py`.

With `--check` nothing is written, and the exit status tells whether anything has drifted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from commands import commands_page
from protocol import protocol_page
from resources import resources_page
from settings import settings_page
from tables import errors_page, metrics_page

REPO = Path(__file__).resolve().parents[2]
PAGES: Mapping[str, Callable[[Path], str]] = {
    "cli.md": lambda _: commands_page(),
    "errors.md": lambda _: errors_page(),
    "grpc.md": lambda repo: protocol_page(repo / "proto"),
    "metrics.md": lambda _: metrics_page(),
    "resources.md": lambda repo: resources_page(repo / "crds"),
    "settings.md": lambda _: settings_page(),
}


def main() -> None:
    """Write the pages, or compare them."""
    folder = REPO / "docs" / "reference"
    drifted = []
    for name, page in PAGES.items():
        path, text = folder / name, page(REPO)
        if path.exists() and path.read_text() == text:
            continue
        drifted.append(name)
        if "--check" not in sys.argv:
            path.write_text(text)
    if "--check" in sys.argv and drifted:
        sys.exit(f"docs/reference is not what the code says, run make reference: {drifted}")


if __name__ == "__main__":
    main()
