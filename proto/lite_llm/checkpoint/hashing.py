"""A file that is hashed while it is written: SHA-256 of the whole, xxh3-64 of each chunk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import BinaryIO, Final

import xxhash

from lite_llm.checkpoint.dtypes import Buffer
from lite_llm.checkpoint.durable import write_all
from lite_llm.contracts.manifest import FileRecord

FLUSH_BYTES: Final = 32 << 20  # written before the disk is set to work on them

_ZEROS: Final = bytes(64 << 10)


class Checksums:
    """Takes a file's bytes in pieces of any size, front to back."""

    def __init__(self, chunk_bytes: int = 0) -> None:
        """``chunk_bytes`` 0: only the SHA-256 is kept."""
        self.num_bytes = 0
        self._chunk_bytes = chunk_bytes
        self._whole = hashlib.sha256()
        self._chunk = xxhash.xxh3_64()
        self._chunks: list[int] = []

    def update(self, data: Buffer) -> None:
        """The next bytes."""
        view = memoryview(data)
        self._whole.update(view)
        while self._chunk_bytes and view:
            room = self._chunk_bytes - self.num_bytes % self._chunk_bytes
            piece, view = view[:room], view[room:]
            self._chunk.update(piece)
            self.num_bytes += len(piece)
            if len(piece) == room:
                self._end_chunk()
        self.num_bytes += len(view)

    def record(self, name: str) -> FileRecord:
        """What proves the bytes so far; nothing may follow."""
        if self._chunk_bytes and self.num_bytes % self._chunk_bytes:
            self._end_chunk()
        return FileRecord(
            name,
            self.num_bytes,
            self._whole.hexdigest(),
            self._chunk_bytes,
            tuple(self._chunks),
        )

    @property
    def chunks(self) -> list[int]:
        """Checksums of the chunks that are complete."""
        return self._chunks

    def _end_chunk(self) -> None:
        self._chunks.append(self._chunk.intdigest())
        self._chunk.reset()


class HashingFile:
    """Writes pieces to ``raw`` while ``hashing``, a pool of one thread, sums them up."""

    def __init__(self, raw: BinaryIO, chunk_bytes: int, hashing: Executor) -> None:
        self._raw = raw
        self._hashing = hashing
        self._checksums = Checksums(chunk_bytes)
        self._offset = self._flushing = 0

    def write(self, data: Buffer) -> None:
        """Append ``data``, which may be reused when this returns."""
        hashed = self._hashing.submit(self._checksums.update, data)
        try:
            write_all(self._raw, data)
        finally:
            hashed.result()
        self._offset += len(data)
        if self._offset - self._flushing >= FLUSH_BYTES:
            # Starts writing to the disk now, so that the final flush has little left to wait for.
            os.posix_fadvise(self._raw.fileno(), 0, self._offset, os.POSIX_FADV_DONTNEED)
            self._flushing = self._offset

    def pad(self, offset: int) -> None:
        """Append zeros up to ``offset``."""
        assert offset >= self._offset, "records are written in order"
        for length in _pieces(offset - self._offset):
            self.write(_ZEROS[:length])

    def begins(self, expected: FileRecord) -> bool:
        """Whether what was written so far may become ``expected``, by the chunks that are whole."""
        chunks = self._checksums.chunks
        return tuple(chunks) == expected.chunk_checksums[: len(chunks)]

    def record(self, name: str) -> FileRecord:
        """What proves the bytes that were written."""
        return self._checksums.record(name)


def _pieces(num_bytes: int) -> Iterator[int]:
    while num_bytes:
        length = min(num_bytes, len(_ZEROS))
        yield length
        num_bytes -= length
