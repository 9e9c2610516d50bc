"""What reading from a source can do wrong."""

from __future__ import annotations

from pathlib import Path

from lite_llm.contracts.errors import StorageFailed


class ReadFailed(StorageFailed):
    """A disk or a store refused to read; ``where`` names the file and the offset."""


class ShortRead(ReadFailed):
    """A file ended before the bytes that its manifest promises."""


def read_failed(path: Path, offset: int, error: OSError) -> ReadFailed:
    """``error`` of a local file in our words, with the place."""
    return ReadFailed(
        f"reading {path} at {offset} failed: {error.strerror}",
        where=f"{path} offset {offset}",
        remedy="look at the kernel's log; the disk may be failing",
    )
