"""What only this room can do wrong, as members of the families that everybody knows."""

from __future__ import annotations

from lite_llm.contracts.errors import Internal


class UseAfterRelease(Internal):
    """A block was used after it was freed or moved, or a lease after it was returned."""


class StillLeased(Internal):
    """A block was to be freed, moved or written while somebody else holds a lease on it."""
