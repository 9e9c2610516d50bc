"""A source's files onto this machine's disk: each once, resumed where it was cut."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lite_llm.contracts.errors import Corrupt, LiteLLMError, OutOfMemory, StorageFailed
from lite_llm.contracts.manifest import FileRecord
from lite_llm.stores import Listing, Source

PARALLEL: Final = 4
"""Files at a time."""
PIECE_BYTES: Final = 8 << 20
"""Asked for at a time, and lost at most when this process dies."""


async def fetch(
    source: Source, listing: Listing, directory: Path, progress: Callable[[int], None]
) -> None:
    """Bring all files to ``directory``; ``progress`` is told how many bytes are there.

    What an earlier fetch of the same content left is kept. Raises :class:`Corrupt` for a file whose
    bytes are not what the source said, :class:`OutOfMemory` for a disk without the room, and what
    the source does.
    """
    await asyncio.to_thread(_make_room, directory, listing.num_bytes)
    turns = asyncio.Semaphore(PARALLEL)
    counts = dict.fromkeys(listing.files, 0)

    async def bring(file: FileRecord) -> None:
        def count(num_bytes: int) -> None:
            counts[file] = num_bytes
            progress(sum(counts.values()))

        async with turns:
            await _bring(source, listing, file, directory, count)

    try:
        async with asyncio.TaskGroup() as group:
            for file in listing.files:
                group.create_task(bring(file))
    except* LiteLLMError as errors:
        raise errors.exceptions[0] from None  # the others were cancelled for it, or are like it


async def _bring(
    source: Source,
    listing: Listing,
    file: FileRecord,
    directory: Path,
    count: Callable[[int], None],
) -> None:
    target = directory / file.name
    identity = listing.identity(file)
    # Another content has another name, so that nothing of it is ever taken for a beginning.
    tag = hashlib.sha256(identity.encode()).hexdigest()[:16]
    partial = directory / f".{file.name}.{tag}.part"
    if not target.exists():
        done = await asyncio.to_thread(_begun, partial)
        while done < file.num_bytes:
            piece = bytearray(min(PIECE_BYTES, file.num_bytes - done))
            await source.read(file.name, done, memoryview(piece))
            await asyncio.to_thread(_write, partial, done, piece)
            done += len(piece)
            count(done)
        is_same = bool(file.sha256) or await source.identity(file.name) == identity
        await asyncio.to_thread(_finish, partial, target, file, listing.uri, is_same)
    count(file.num_bytes)


def _make_room(directory: Path, num_bytes: int) -> None:
    """The directory; a disk that can't hold it all is better not filled to the brim first."""
    with _failures(directory):
        directory.mkdir(parents=True, exist_ok=True)
        there = sum(path.stat().st_size for path in directory.iterdir())
        free = shutil.disk_usage(directory).free
    if num_bytes - there > free:
        raise _full(directory, f"{num_bytes - there} bytes are to come, {free} are free")


def _begun(partial: Path) -> int:
    """Bytes that are there; the file is."""
    with _failures(partial):
        partial.touch()
        return partial.stat().st_size


def _write(partial: Path, offset: int, piece: bytearray) -> None:
    # By place and not at the end: the thread of a fetch that was cancelled may still be writing.
    with _failures(partial), partial.open("r+b") as out:
        out.seek(offset)
        out.write(piece)


def _finish(partial: Path, target: Path, file: FileRecord, uri: str, is_same: bool) -> None:
    with _failures(partial):
        with partial.open("rb") as read:
            is_right = is_same and os.fstat(read.fileno()).st_size == file.num_bytes
            if file.sha256:
                is_right &= hashlib.file_digest(read, "sha256").hexdigest() == file.sha256
            os.fsync(read.fileno())
        if is_right:
            partial.replace(target)
            return
        partial.unlink()
    what = "is not what its source's SHA-256 says" if file.sha256 else "changed meanwhile"
    raise Corrupt(
        f"{uri}/{file.name} {what}",
        where=f"{uri}/{file.name}",
        remedy="fetch it again; if that repeats, the source is damaged",
    )


@contextmanager
def _failures(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(path, "it is full") from error
        raise StorageFailed(
            f"{path} can't be written: {error.strerror}", where="scratch"
        ) from error


def _full(path: Path, why: str) -> OutOfMemory:
    return OutOfMemory(
        f"no room on the disk of {path}: {why}",
        where="scratch",
        remedy="give ingestion a larger scratch directory",
    )
