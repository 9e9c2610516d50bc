"""Opening and reading a checkpoint's files: plain files only, and all the bytes that were asked."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from lite_llm.checkpoint.strict_json import corrupt

READ_BYTES: Final = 1 << 30  # of one system call; Linux reads no more than 2 GiB less a page


def open_plain(path: Path, *, follow_links: bool = False) -> int:
    """A descriptor for reading; :class:`Corrupt` unless ``path`` is a regular file.

    Links are refused where the name comes from an index; Hugging Face's cache is made of them.
    """
    # Without O_NONBLOCK a named pipe would block the open for good.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise corrupt(f"can't be opened: {error.strerror}", str(path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise corrupt("not a regular file", str(path))
    return descriptor


def read_into(descriptor: int, offset: int, buffer: memoryview, where: str) -> None:
    """Fill ``buffer`` from ``offset``; :class:`Corrupt` if the file ends before or fails."""
    done = 0
    while done < len(buffer):
        try:
            count = os.preadv(descriptor, [buffer[done : done + READ_BYTES]], offset + done)
        except OSError as error:
            raise corrupt(f"can't be read at {offset + done}: {error.strerror}", where) from error
        if not count:
            raise corrupt(f"ends at {offset + done}, {len(buffer) - done} bytes too soon", where)
        done += count


def read_small(path: Path, *, max_bytes: int, follow_links: bool = False) -> bytes:
    """The whole of a file that may not be larger than ``max_bytes``."""
    descriptor = open_plain(path, follow_links=follow_links)
    try:
        num_bytes = os.fstat(descriptor).st_size
        if num_bytes > max_bytes:
            raise corrupt(f"{num_bytes} bytes, more than {max_bytes}", str(path))
        pieces: list[bytes] = []  # one as a rule, and joining one copies nothing
        while missing := num_bytes - sum(map(len, pieces)):
            pieces.append(_read(descriptor, num_bytes - missing, missing, str(path)))
        return b"".join(pieces)
    finally:
        os.close(descriptor)


def _read(descriptor: int, offset: int, num_bytes: int, where: str) -> bytes:
    try:
        piece = os.pread(descriptor, num_bytes, offset)
    except OSError as error:
        raise corrupt(f"can't be read at {offset}: {error.strerror}", where) from error
    if not piece:
        raise corrupt(f"ends at {offset}, {num_bytes} bytes too soon", where)
    return piece
