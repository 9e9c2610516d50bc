"""The bytes of a planned file, out of its source: read and converted ahead of who takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from lite_llm.checkpoint.dtypes import Buffer, converted
from lite_llm.checkpoint.hashing import HashingFile
from lite_llm.checkpoint.layout import Copy, PlannedFile
from lite_llm.checkpoint.reader import Reader
from lite_llm.contracts.manifest import Span

PIECE_BYTES: Final = 4 << 20  # read, converted and written at once
PIECES_AHEAD: Final = 4  # read while others are hashed and written


def copy_file(
    reader: Reader, planned: PlannedFile, file: HashingFile, reading: ThreadPoolExecutor
) -> Iterator[int]:
    """Write all of ``planned`` to ``file``; yields now and then how many bytes of it are there."""
    for offset, data in _read_ahead(reader, planned, reading):
        file.pad(offset)
        file.write(data)
        yield offset + len(data)
    file.pad(planned.num_bytes)


def _read_ahead(
    reader: Reader, planned: PlannedFile, reading: ThreadPoolExecutor
) -> Iterator[tuple[int, Buffer]]:
    """The file's pieces with their offsets, read and converted some way ahead."""
    ahead: deque[tuple[int, Future[Buffer]]] = deque()
    for copy in planned.copies:
        for start, span in _pieces(copy):
            if len(ahead) == PIECES_AHEAD:
                offset, piece = ahead.popleft()
                yield offset, piece.result()
            ahead.append((start, reading.submit(_piece, reader, span, copy)))
    for offset, piece in ahead:
        yield offset, piece.result()


def _pieces(copy: Copy) -> Iterator[tuple[int, Span]]:
    """Spans of the source and where each begins in the new file."""
    source, target = copy.source, copy.target
    for offset in range(0, source.span.length, PIECE_BYTES):
        span = source.span.part(offset, min(PIECE_BYTES, source.span.length - offset))
        yield target.span.offset + offset * target.span.length // source.span.length, span


def _piece(reader: Reader, span: Span, copy: Copy) -> Buffer:
    data = reader.read_checked(span)
    return converted(data, copy.source.dtype, copy.target.dtype, copy.source.name)
