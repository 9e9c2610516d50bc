"""Which record goes where in a new checkpoint: a pure function of its contents and its options.

Dense tensors share a file per layer, the experts of a layer and tier a container of their own
(SPEC-028). Names and order follow from the contents alone, never from how the source was cut up.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from lite_llm.checkpoint.sizes import RECORD_ALIGNMENT, aligned, part_offsets
from lite_llm.contracts.errors import Unsupported
from lite_llm.contracts.manifest import ExpertRecord, Span, TensorRecord

MAX_FILE_BYTES: Final = 4 << 30
"""Files are split before they outgrow what an object store takes in one PUT (5 GB)."""

CHUNK_BYTES: Final = 4 << 20
"""Of a checked chunk. Large enough that a few in flight keep a fast disk busy and that a terabyte's
checksums take 4 MiB; small enough to be fetched again for one flipped bit."""

_LAYER: Final = re.compile(r"(?:^|\.)(?:layers|blocks|h)\.(\d{1,6})\.")


@dataclass(frozen=True)
class Copy:
    """Bytes of the source that become bytes of the new file."""

    source: TensorRecord
    target: TensorRecord


@dataclass(frozen=True)
class PlannedFile:
    """One file to write: what goes into it, in order of offset, with zeros between."""

    name: str
    num_bytes: int
    chunk_bytes: int
    copies: tuple[Copy, ...]


@dataclass(frozen=True)
class Layout:
    """All files to write, and the records that describe them."""

    files: tuple[PlannedFile, ...]
    tensors: tuple[TensorRecord, ...]
    experts: tuple[ExpertRecord, ...]


@dataclass(frozen=True)
class Sized:
    """A tensor of the source and what it will be: dtype and length, its place still open."""

    source: TensorRecord
    dtype: str
    num_bytes: int

    def at(self, file: str, offset: int) -> Copy:
        """With its place."""
        span = Span(file, offset, self.num_bytes)
        return Copy(
            self.source, TensorRecord(self.source.name, span, self.source.shape, self.dtype)
        )


@dataclass(frozen=True)
class SizedExpert:
    """An expert with its parts."""

    expert: ExpertRecord
    parts: tuple[Sized, ...]


def lay_out(
    dense: Iterable[Sized],
    experts: Iterable[SizedExpert],
    *,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> Layout:
    """Places for all tensors and experts, within files of at most ``max_file_bytes``.

    Raises :class:`Unsupported` for a record that is larger than a file may be.
    """
    by_layer: dict[str, list[Sized]] = defaultdict(list)
    for tensor in dense:
        match = _LAYER.search(tensor.source.name)
        by_layer[f"{int(match[1]):05}" if match else "outer"].append(tensor)
    by_tier: dict[str, list[SizedExpert]] = defaultdict(list)
    for expert in experts:
        key = expert.expert.key
        by_tier[f"{key.layer:05}-tier{key.tier}"].append(expert)
    files: list[PlannedFile] = []
    placed: list[ExpertRecord] = []
    for layer, tensors in sorted(by_layer.items()):
        files += _dense_files(f"dense-{layer}", tensors, max_file_bytes)
    records = tuple(copy.target for file in files for copy in file.copies)
    for container, members in sorted(by_tier.items()):
        members.sort(key=lambda member: member.expert.key)
        written, found = _expert_files(f"experts-{container}", members, max_file_bytes)
        files += written
        placed += found
    placed.sort(key=lambda record: record.key)
    return Layout(tuple(files), records, tuple(placed))


def _dense_files(stem: str, tensors: list[Sized], max_file_bytes: int) -> list[PlannedFile]:
    tensors.sort(key=lambda tensor: tensor.source.name)
    lengths = [aligned(tensor.num_bytes) for tensor in tensors]
    files = []
    for number, (first, last) in enumerate(_groups(stem, lengths, max_file_bytes)):
        name = f"{stem}-{number:03}.bin"
        offset = 0
        copies = []
        for tensor, length in zip(tensors[first:last], lengths[first:last], strict=True):
            copies.append(tensor.at(name, offset))
            offset += length
        files.append(PlannedFile(name, offset, CHUNK_BYTES, tuple(copies)))
    return files


def _expert_files(
    stem: str, members: Sequence[SizedExpert], max_file_bytes: int
) -> tuple[list[PlannedFile], list[ExpertRecord]]:
    chunk_bytes, lengths = _chunking([_record_bytes(member) for member in members])
    files, experts = [], []
    for number, (first, last) in enumerate(_groups(stem, lengths, max_file_bytes)):
        name = f"{stem}-{number:03}.bin"
        offset = 0
        copies: list[Copy] = []
        for member, length in zip(members[first:last], lengths[first:last], strict=True):
            starts, _ = part_offsets(part.num_bytes for part in member.parts)
            parts = [
                part.at(name, offset + start)
                for part, start in zip(member.parts, starts, strict=True)
            ]
            copies += parts
            experts.append(
                ExpertRecord(
                    member.expert.key,
                    tuple(copy.target for copy in parts),
                    member.expert.router_row,
                )
            )
            offset += length
        files.append(PlannedFile(name, offset, chunk_bytes, tuple(copies)))
    return files, experts


def _record_bytes(member: SizedExpert) -> int:
    return part_offsets(part.num_bytes for part in member.parts)[1]


def _chunking(lengths: Sequence[int]) -> tuple[int, list[int]]:
    """The chunk's size for a container, and how much room each record gets.

    Records of one size are cut into equal chunks, so that an expert is a whole number of them and
    nothing beside it need be read to check it.
    """
    longest = max(lengths)
    if longest != min(lengths) or not longest:
        return CHUNK_BYTES, [aligned(length) for length in lengths]
    num_chunks = -(-longest // CHUNK_BYTES)
    chunk_bytes = aligned(-(-longest // num_chunks), RECORD_ALIGNMENT)
    return chunk_bytes, [num_chunks * chunk_bytes] * len(lengths)


def _groups(stem: str, lengths: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Ranges of ``lengths``, in order, whose sums stay within ``limit``."""
    groups: list[tuple[int, int]] = []
    first = total = 0
    for number, length in enumerate(lengths):
        if length > limit:
            raise Unsupported(
                f"a record of {length} bytes does not fit into files of {limit}",
                where=stem,
                remedy="allow larger files",
            )
        if total + length > limit:
            groups.append((first, number))
            first, total = number, 0
        total += length
    return [*groups, (first, len(lengths))] if lengths else groups
