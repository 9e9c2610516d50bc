"""What only this room can do wrong, as members of the families that everybody knows."""

from __future__ import annotations

from lite_llm.contracts.errors import Internal, StorageFailed


class UseAfterRelease(Internal):
    """A block was used after it was freed or moved, or a lease after it was returned."""


class StillLeased(Internal):
    """A block was to be freed, moved or written while somebody else holds a lease on it."""


class ReadFailed(StorageFailed):
    """The disk refused to read; ``where`` names the file and the offset."""


class ShortRead(ReadFailed):
    """A file ended before the bytes that its manifest promises."""
