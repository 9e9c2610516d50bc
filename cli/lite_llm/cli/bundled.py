"""The demo model that comes along: beside the sources, or inside the installed package."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from lite_llm.contracts.errors import ModelNotFound

NAME: Final = "demo"
PROMPT: Final = "def __init__(self, name"
"""Something that it can continue."""

_PLACES: Final = (
    Path(__file__).parent / "demo_model",
    Path(__file__).parents[3] / "models" / "demo",
)


def bundled_model() -> Path:
    """Its directory; :class:`ModelNotFound` where it was left out."""
    for place in _PLACES:
        if (place / "checkpoint.idx").is_file():
            return place
    raise ModelNotFound(
        "the demo model is not installed here",
        where="--model",
        remedy="name a model of yours with --model, or make it: make train-demo",
    )
