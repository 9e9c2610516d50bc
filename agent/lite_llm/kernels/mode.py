"""Whether determinism may be given up for torch's own products: off unless asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_state = {"fast": False}


def is_fast() -> bool:
    """Whether products and attention are torch's, whose bits depend on the batch."""
    return _state["fast"]


def set_fast(enabled: bool) -> None:
    """Choose for the whole process."""
    _state["fast"] = enabled


@contextmanager
def fast() -> Iterator[None]:
    """Torch's products within the block, to measure what determinism costs."""
    before = is_fast()
    set_fast(True)
    try:
        yield
    finally:
        set_fast(before)
