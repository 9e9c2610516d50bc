"""The grid of checked chunks over a file, and the check itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import xxhash

from lite_llm.contracts.errors import Corrupt
from lite_llm.contracts.manifest import FileRecord
from lite_llm.tiers.extents import GRANULE

UNCHECKED_CHUNK_BYTES: Final = 1 << 20
"""Grid of files that come without checksums: fine enough to read little more than asked."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """Chunk ``i`` is bytes ``i * size`` to ``(i + 1) * size`` of the file; the last is shorter."""

    record: FileRecord

    @property
    def size(self) -> int:
        """Bytes of a chunk."""
        return self.record.chunk_bytes or UNCHECKED_CHUNK_BYTES

    @property
    def count(self) -> int:
        return -(-self.record.num_bytes // self.size)

    @property
    def is_checked(self) -> bool:
        """Whether the manifest has checksums for this file."""
        return bool(self.record.chunk_bytes)

    @property
    def is_aligned(self) -> bool:
        """Whether chunks begin where direct I/O can."""
        return self.size % GRANULE == 0

    def start(self, index: int) -> int:
        """Offset in the file; of the index behind the last chunk, the file's end."""
        return min(index * self.size, self.record.num_bytes)

    def covering(self, offset: int, length: int) -> range:
        """Indices of the chunks that hold any of these bytes."""
        return range(offset // self.size, -(-(offset + length) // self.size))

    def first_bad(self, chunks: range, view: memoryview) -> int | None:
        """The first of these chunks, laid out from the start of ``view``, that is not as promised.

        Releases the GIL: called from reading threads, it costs the others nothing.
        """
        if not self.is_checked:
            return None
        origin = self.start(chunks.start)
        for index in chunks:
            with view[self.start(index) - origin : self.start(index + 1) - origin] as chunk:
                if xxhash.xxh3_64_intdigest(chunk) != self.record.chunk_checksums[index]:
                    return index
        return None

    def corrupt(self, index: int, found_in: str) -> Corrupt:
        """The error for chunk ``index``, naming file, chunk and offset."""
        return Corrupt(
            f"chunk {index} of {self.record.name} (offset {self.start(index)}) "
            "differs from its checksum",
            where=found_in,
            remedy="run `lite-llm verify` and fetch the checkpoint again",
        )
