"""Where foreign servers are installed."""

from __future__ import annotations

import shutil

from lite_llm.contracts.errors import InvalidSettings


def program(name: str, *, remedy: str) -> str:
    """The path of ``name`` on PATH; :class:`InvalidSettings` with ``remedy`` if there is none."""
    if path := shutil.which(name):
        return path
    raise InvalidSettings(f"{name} is not on PATH", where="PATH", remedy=remedy)
