"""Bytes that survive a power cut: written under another name, flushed, renamed, flushed again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

PARTIAL_SUFFIX: Final = ".partial"
"""Of names that no reader looks at; whatever bears it may be removed."""


@contextmanager
def published(path: Path) -> Iterator[BinaryIO]:
    """A file to write; at the block's end it is at ``path``, with all of its bytes or not at all.

    An error leaves ``path`` as it was; after a crash, :func:`remove_partials` cleans up.
    """
    partial = path.with_name(f".{path.name}{PARTIAL_SUFFIX}")
    try:
        with partial.open("wb", buffering=0) as file:
            yield file
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_published(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``, all or nothing."""
    with published(path) as file:
        write_all(file, data)


def append_durably(path: Path, line: bytes) -> None:
    """Add ``line`` to the end of ``path``."""
    with path.open("ab", buffering=0) as file:
        write_all(file, line)
        os.fsync(file.fileno())


def write_all(file: BinaryIO, data: bytes | bytearray | memoryview) -> None:
    """Write every byte: an unbuffered file may take fewer than it is given."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def sync_directory(path: Path) -> None:
    """Make the names in ``path`` survive; what was renamed before is there after a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(directory: Path) -> None:
    """Flush every file in ``directory`` and their names."""
    for path in sorted(directory.iterdir()):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_directory(directory)


def remove_partials(directory: Path) -> None:
    """Remove what writers that died left behind."""
    for path in directory.glob(f".*{PARTIAL_SUFFIX}"):
        path.unlink(missing_ok=True)
