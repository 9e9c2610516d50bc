"""A source's files onto this machine's disk: each once, resumed where it was cut."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

import obstore

from lite_llm.contracts.errors import (
    Corrupt,
    LiteLLMError,
    OutOfMemory,
    StorageFailed,
    StoreUnavailable,
)
from lite_llm.registry.buckets import FAULTS, failure
from lite_llm.registry.origin import Origin, RemoteFile

PARALLEL: Final = 4
"""Files at a time."""
PIECE_BYTES: Final = 4 << 20
STALL_SECONDS: Final = 30.0
ATTEMPTS: Final = 6
"""In a row without a byte, per file."""


async def fetch(origin: Origin, directory: Path, progress: Callable[[int], None]) -> None:
    """Bring all files to ``directory``; ``progress`` is told how many bytes are there.

    What an earlier fetch of the same content left is kept. Raises :class:`Corrupt` for a file whose
    bytes are not what the source said, :class:`StoreUnavailable` when it is away for long, and
    :class:`OutOfMemory` for a full disk.
    """
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    turns = asyncio.Semaphore(PARALLEL)
    counts = dict.fromkeys(origin.files, 0)

    async def bring(file: RemoteFile) -> None:
        def count(num_bytes: int) -> None:
            counts[file] = num_bytes
            progress(sum(counts.values()))

        async with turns:
            await _bring(origin, file, directory, count)

    try:
        async with asyncio.TaskGroup() as group:
            for file in origin.files:
                group.create_task(bring(file))
    except* LiteLLMError as errors:
        raise errors.exceptions[0] from None  # the others were cancelled for it, or are like it


async def _bring(
    origin: Origin, file: RemoteFile, directory: Path, count: Callable[[int], None]
) -> None:
    target = directory / file.name
    # Another content has another name, so that nothing of it is ever taken for a beginning.
    tag = hashlib.sha256(f"{origin.uri} {file.tag} {file.num_bytes}".encode()).hexdigest()[:16]
    partial = directory / f".{file.name}.{tag}.part"
    if not target.exists():
        failures = 0
        while (done := _size(partial)) < file.num_bytes or not partial.exists():
            try:
                await _read_on(origin, file, partial, done, count)
            except FAULTS as error:
                failures = 1 if _size(partial) > done else failures + 1
                reason = failure(f"{origin.uri}/{file.name}", error)
                if failures >= ATTEMPTS or not isinstance(reason, StoreUnavailable):
                    raise reason from error
                await asyncio.sleep(0.1 * 2.0**failures)
        await asyncio.to_thread(_check, partial, file, origin.uri)
        partial.replace(target)
    count(file.num_bytes)


async def _read_on(
    origin: Origin, file: RemoteFile, partial: Path, start: int, count: Callable[[int], None]
) -> None:
    with partial.open("ab", buffering=0) as out:
        if file.num_bytes == 0:
            return
        async with asyncio.timeout(STALL_SECONDS):
            answer = await obstore.get_async(
                origin.store, file.name, options={"range": (start, file.num_bytes)}
            )
        if answer.range[0] != start or answer.meta["size"] != file.num_bytes:
            raise Corrupt(
                f"{origin.uri}/{file.name} has {answer.meta['size']} bytes, not {file.num_bytes}",
                where=f"{origin.uri}/{file.name}",
                remedy="it changed while it was fetched: ingest it again",
            )
        pieces, done = aiter(answer.stream(min_chunk_size=PIECE_BYTES)), start
        while True:
            async with asyncio.timeout(STALL_SECONDS):
                piece = await anext(pieces, None)
            if piece is None:
                break
            await asyncio.to_thread(_write, out, bytes(piece))
            done += len(piece)
            count(done)
        if done < file.num_bytes:
            raise ConnectionError("the answer ended early")


def _write(out: BinaryIO, piece: bytes) -> None:
    try:
        view = memoryview(piece)
        while view:
            view = view[out.write(view) :]
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfMemory(
                f"no room on the disk of {out.name}",
                where="scratch",
                remedy="give ingestion a larger scratch directory",
            ) from error
        raise StorageFailed(f"{out.name} can't be written", where="scratch") from error


def _check(partial: Path, file: RemoteFile, uri: str) -> None:
    with partial.open("rb") as read:
        if file.sha256 and hashlib.file_digest(read, "sha256").hexdigest() != file.sha256:
            partial.unlink()
            raise Corrupt(
                f"{uri}/{file.name} is not what its source's SHA-256 says",
                where=f"{uri}/{file.name}",
                remedy="fetch it again; if that repeats, the source is damaged",
            )
        os.fsync(read.fileno())


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
