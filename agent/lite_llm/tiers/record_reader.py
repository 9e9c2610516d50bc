"""Records read and verified by the thread that asks: for steps, which no event loop has a part in.

Nearest first: a local file, then the sources. A chunk that is bad is read again, then asked of the
next place down; only then is it an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from threading import Lock
from typing import Final

from lite_llm.contracts.errors import Corrupt, LiteLLMError, StoreUnavailable
from lite_llm.contracts.manifest import Manifest, Span
from lite_llm.contracts.tiers import Medium
from lite_llm.stores import LocalSource, ReadFailed, Source
from lite_llm.tiers.chunks import Chunks
from lite_llm.tiers.device_tier import copy_bytes
from lite_llm.tiers.disk_reader import DiskFile, DiskReader
from lite_llm.tiers.disk_tier import DiskTier
from lite_llm.tiers.extents import aligned_down, aligned_up
from lite_llm.tiers.kept_chunks import KeptChunks

PATIENCE_SECONDS: Final = 30.0
"""That a store may take for one record."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a file, and where they belong in the record's memory."""

    span: Span
    offset: int


class RecordReader:
    """Any thread may read; ``scratch`` is its own."""

    def __init__(
        self,
        manifest: Manifest,
        sources: Sequence[Source | LocalSource],
        *,
        reader: DiskReader,
        patience: float = PATIENCE_SECONDS,
        loop: asyncio.AbstractEventLoop | None = None,
        disks: DiskTier | None = None,
    ) -> None:
        """``sources``: nearest first. Distant ones are read in ``loop``, for ``patience`` seconds
        each at most, and what they give is kept on ``disks``, where these have room.
        """
        self.kept: KeptChunks | None = None
        """To be let go of when no read is under way any more."""
        if disks is not None and loop is not None:
            self.kept = KeptChunks(disks, reader, loop, patience)
        self._grids = {file.name: Chunks(file) for file in manifest.files}
        self._sources = sources
        self._reader = reader
        self._patience = patience
        self._loop = loop
        self._files: dict[str, DiskFile] = {}
        self._opening = Lock()

    @property
    def medium(self) -> Medium:
        """What the nearest source is."""
        first = self._sources[0]
        return first.medium if isinstance(first, LocalSource) else Medium.OBJECT_STORE

    def room(self, pieces: Iterable[Piece]) -> int:
        """Bytes that the memory of a record needs so that whole chunks can be read into it."""
        ends = [
            piece.offset + (self._whole(piece).length if self._fits(piece) else piece.span.length)
            for piece in pieces
        ]
        return aligned_up(max(ends))

    def scratch(self, pieces: Iterable[Piece]) -> int:
        """Bytes beside it, for pieces that don't lie on their chunks' borders."""
        apart = [self._whole(piece).length for piece in pieces if not self._fits(piece)]
        return aligned_up(max(apart, default=0))

    def read(self, pieces: Iterable[Piece], target: memoryview, scratch: memoryview) -> Medium:
        """Fill ``target``, which has :meth:`room`; returns the most distant medium used.

        Raises what the last source said: :class:`Corrupt`, :class:`ReadFailed` or
        :class:`StoreUnavailable`.
        """
        return max(self._read(piece, target, scratch) for piece in pieces)

    def close(self) -> None:
        """Close the files. No read may be under way."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _read(self, piece: Piece, target: memoryview, scratch: memoryview) -> Medium:
        whole = self._whole(piece)
        if self._fits(piece):
            with target[piece.offset :] as part:
                return self._bring(whole, part)
        medium = self._bring(whole, scratch)
        begin, length = piece.span.offset - whole.offset, piece.span.length
        with (
            scratch[begin : begin + length] as source,
            target[piece.offset : piece.offset + length] as part,
        ):
            copy_bytes(source, part)
        return medium

    def _fits(self, piece: Piece) -> bool:
        """Whether the chunks begin where the piece does, at a place that direct reads like."""
        return (
            aligned_up(piece.offset) == piece.offset
            and self._whole(piece).offset == piece.span.offset
            and self._grids[piece.span.file].is_checked
        )

    def _whole(self, piece: Piece) -> Span:
        """The chunks around a piece, or without checksums the pages."""
        span, grid = piece.span, self._grids[piece.span.file]
        if grid.is_checked:
            chunks = grid.covering(span.offset, span.length)
            start, end = grid.start(chunks.start), grid.start(chunks.stop)
        else:
            start, end = aligned_down(span.offset), min(aligned_up(span.end), grid.record.num_bytes)
        return Span(span.file, start, end - start)

    def _bring(self, whole: Span, target: memoryview) -> Medium:
        for source in self._sources:
            try:
                if isinstance(source, LocalSource):
                    self._from_disk(source, whole, target)
                    return source.medium
                return self._from_store(source, whole, target)
            except (Corrupt, ReadFailed, StoreUnavailable):
                if source is self._sources[-1]:
                    raise
        raise AssertionError("a reader needs a source")

    def _from_disk(self, source: LocalSource, whole: Span, target: memoryview) -> None:
        file, grid = self._opened(source, whole.file), self._grids[whole.file]
        if grid.is_checked:
            wanted = grid.covering(whole.offset, whole.length)
            self._reader.read_chunks_now(file, grid, wanted, target)
        else:
            self._reader.read_now(file, whole.offset, whole.length, target)

    def _opened(self, source: LocalSource, name: str) -> DiskFile:
        with self._opening:
            if name not in self._files:
                self._files[name] = DiskFile(source.path(name))
            return self._files[name]

    def _from_store(self, source: Source, whole: Span, target: memoryview) -> Medium:
        grid = self._grids[whole.file]
        wanted = grid.covering(whole.offset, whole.length)
        if self.kept is not None and grid.is_checked:
            with target[: whole.length] as part:
                medium = self.kept.read(source, grid, wanted, part)
            if medium is not None:
                return medium
        # Memory of its own: a read that is given up may still be writing to it.
        fetched = memoryview(bytearray(whole.length))
        self._fetch(source, whole, fetched)
        if grid.is_checked and grid.first_bad(wanted, fetched) is not None:
            self._fetch(source, whole, fetched)
            if (bad := grid.first_bad(wanted, fetched)) is not None:
                raise grid.corrupt(bad, f"{source.uri}/{whole.file}")
        copy_bytes(fetched, target[: whole.length])
        if self.kept is not None and grid.is_checked:
            self.kept.keep(source, grid, wanted, fetched)
        return Medium.OBJECT_STORE

    def _fetch(self, source: Source, whole: Span, target: memoryview) -> None:
        assert self._loop is not None, "distant sources are read in a loop"
        reading = asyncio.run_coroutine_threadsafe(
            source.read(whole.file, whole.offset, target), self._loop
        )
        try:
            reading.result(self._patience)
        except (TimeoutError, CancelledError) as error:
            reading.cancel()
            raise _away(source, whole) from error
        except LiteLLMError:
            raise
        except OSError as error:
            raise _away(source, whole) from error


def _away(source: Source, whole: Span) -> StoreUnavailable:
    return StoreUnavailable(
        f"{source.uri}/{whole.file} did not come in time",
        where=f"{whole.file} offset {whole.offset}",
        remedy="look at the store, or keep the model on a disk",
    )
