"""From what an index says to a manifest, once every number was held against the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lite_llm.checkpoint.expert_parts import MAX_PARTS
from lite_llm.checkpoint.index import (
    INDEX_NAME,
    ExpertEntry,
    FileEntry,
    Header,
    PartEntry,
    Records,
    TensorEntry,
    tier_of,
)
from lite_llm.checkpoint.sizes import RECORD_ALIGNMENT, part_offsets, tensor_bytes
from lite_llm.checkpoint.strict_json import corrupt
from lite_llm.contracts.errors import OverBudget
from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.manifest import (
    DTYPE_BITS,
    ExpertRecord,
    FileRecord,
    Manifest,
    Span,
    TensorRecord,
)
from lite_llm.contracts.tiers import Tier

FLAT_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,126}")
"""Names of a checkpoint's files: no folders, nothing hidden, nothing a shell or URL would bend."""

_CHECKSUM_DIGITS: Final = 16  # of an xxh3-64 in hexadecimal
_HEX: Final = re.compile(r"[0-9a-f]*")


def manifest_of(header: Header, records: Records, where: str) -> Manifest:
    """The checkpoint that ``header`` and ``records`` describe, if it can be one.

    Raises :class:`Corrupt` with file and field, and :class:`OverBudget` for a tier that holds more
    parameters than it declares.
    """
    _check_header(header, f"{where}: header")
    tiers = [tier_of(entry, f"{where}: header.tiers[{n}]") for n, entry in enumerate(header.tiers)]
    for what in ("id", "name"):
        if len({getattr(tier, what) for tier in tiers}) < len(tiers):
            raise corrupt(f"two tiers of one {what}", f"{where}: header.tiers")
    layouts = [
        _Layout(parts, f"{where}: header.layouts[{n}]") for n, parts in enumerate(header.layouts)
    ]
    check = _RecordChecks(records, layouts, {tier.id: tier for tier in tiers}, f"{where}: records")
    check.files()
    check.tensors()
    check.experts()
    check.overlaps()
    check.budgets(tiers, where)
    return Manifest(
        model=header.model,
        version=header.version,
        step=header.step,
        architecture=header.architecture,
        routing_seed=int(header.routing_seed, 16),
        optimizer=header.optimizer,
        tiers=tuple(tiers),
        files=tuple(_file_record(entry) for entry in records.files),
        tensors=tuple(_tensor_record(entry, records.files) for entry in records.tensors),
        experts=tuple(_expert_record(entry, records.files, layouts) for entry in records.experts),
        extras=header.extras,
    )


class _Layout:
    """The parts of an expert with their offsets within its record."""

    def __init__(self, parts: Sequence[PartEntry], where: str) -> None:
        lengths = []
        for number, part in enumerate(parts):
            if not part.name.isprintable():
                raise corrupt("a name that can't be printed", f"{where}[{number}]")
            lengths.append(_length(part.shape, part.dtype, f"{where}[{number}]"))
        if len({part.name for part in parts}) < len(parts):
            raise corrupt("two parts of one name", where)
        self.parts = [
            (part.name, part.dtype, part.shape, length)
            for part, length in zip(parts, lengths, strict=True)
        ]
        self.offsets, self.num_bytes = part_offsets(lengths)
        if self.num_bytes >= 2**63:
            raise corrupt("an expert of 2**63 bytes or more", where)
        self.num_parameters = sum(prod(part.shape) for part in parts)

    def records(self, span: Span) -> tuple[TensorRecord, ...]:
        return tuple(
            TensorRecord(name, span.part(offset, length), shape, dtype)
            for (name, dtype, shape, length), offset in zip(self.parts, self.offsets, strict=True)
        )


class _RecordChecks:
    """What must hold between records; one method a rule, the first breach raises."""

    def __init__(
        self, records: Records, layouts: Sequence[_Layout], tiers: dict[int, Tier], where: str
    ) -> None:
        self._records = records
        self._layouts = layouts
        self._tiers = tiers
        self._where = where
        self._spans: list[NDArray[np.int64]] = []

    def files(self) -> None:
        names: set[str] = set()
        for number, entry in enumerate(self._records.files):
            where = f"{self._where}.files[{number}] {entry.name[:80]!r}"
            if not FLAT_NAME.fullmatch(entry.name) or not entry.name.endswith(".bin"):
                raise corrupt("not the plain name of a .bin file", where)
            if entry.name in names:
                raise corrupt("the file twice", where)
            names.add(entry.name)
            if entry.num_bytes % RECORD_ALIGNMENT or entry.chunk_bytes % RECORD_ALIGNMENT:
                raise corrupt(f"num_bytes and chunk_bytes must be n * {RECORD_ALIGNMENT}", where)
            num_chunks = -(-entry.num_bytes // entry.chunk_bytes)
            if len(entry.chunk_checksums) != num_chunks * _CHECKSUM_DIGITS:
                raise corrupt(f"not {num_chunks} chunk checksums", where)
            if not _HEX.fullmatch(entry.chunk_checksums):
                raise corrupt("chunk checksums are not lower-case hexadecimal", where)

    def tensors(self) -> None:
        before = (-1, -1, "")
        names: set[str] = set()
        for number, entry in enumerate(self._records.tensors):
            where = f"{self._where}.tensors[{number}] {entry.name[:80]!r}"
            if not entry.name.isprintable():
                raise corrupt("a name that can't be printed", where)
            if entry.name in names:
                raise corrupt("the tensor twice", where)
            names.add(entry.name)
            if entry.length != _length(entry.shape, entry.dtype, where):
                raise corrupt(
                    f"{entry.length} bytes for {entry.dtype} of shape {entry.shape}", where
                )
            self._check_span(entry, entry.length, where)
            position = (entry.file, entry.offset, entry.name)
            if position < before:
                raise corrupt("records are not in order of file and offset", where)
            before = position
        self._remember((entry, entry.length) for entry in self._records.tensors)

    def experts(self) -> None:
        before = (-1, -1, -1, -1)
        num_parts = 0
        for number, entry in enumerate(self._records.experts):
            key = (entry.layer, entry.tier, entry.group, entry.expert)
            where = f"{self._where}.experts[{number}] {'.'.join(map(str, key))}"
            if key <= before:
                raise corrupt("keys are not in order, or one is there twice", where)
            before = key
            tier = self._tiers.get(entry.tier)
            if tier is None:
                raise corrupt(f"there is no tier {entry.tier}", where)
            if entry.group >= tier.groups or entry.expert >= tier.experts_per_group:
                raise corrupt(
                    f"outside of tier {tier.name!r}: {tier.groups} groups of "
                    f"{tier.experts_per_group}",
                    where,
                )
            if entry.layout >= len(self._layouts):
                raise corrupt(f"there is no layout {entry.layout}", where)
            num_parts += len(self._layouts[entry.layout].parts)
            if num_parts > MAX_PARTS:
                raise corrupt(f"more than {MAX_PARTS} parts of experts", where)
            self._check_span(entry, self._layouts[entry.layout].num_bytes, where)
        self._remember(
            (entry, self._layouts[entry.layout].num_bytes) for entry in self._records.experts
        )

    def overlaps(self) -> None:
        spans = np.concatenate([*self._spans, np.empty((0, 3), np.int64)])
        spans = spans[np.lexsort((spans[:, 1], spans[:, 0]))]
        same_file = spans[1:, 0] == spans[:-1, 0]
        if (clash := np.flatnonzero(same_file & (spans[1:, 1] < spans[:-1, 2]))).size:
            file, offset, _ = (int(value) for value in spans[clash[0] + 1])
            name = self._records.files[file].name
            raise corrupt(f"records of {name} overlap at offset {offset}", self._where)

    def budgets(self, tiers: Iterable[Tier], where: str) -> None:
        counts = Counter((entry.tier, entry.layout) for entry in self._records.experts)
        for tier in tiers:
            held = sum(
                count * self._layouts[layout].num_parameters
                for (tier_id, layout), count in counts.items()
                if tier_id == tier.id
            )
            if held > tier.parameter_budget:
                raise OverBudget(
                    f"{where}: tier {tier.name!r} holds {held} parameters, but its budget is "
                    f"{tier.parameter_budget}",
                    where=f"{where}: header.tiers",
                    remedy="raise parameter_budget or put fewer experts into the tier",
                )

    def _check_span(self, entry: TensorEntry | ExpertEntry, length: int, where: str) -> None:
        if entry.file >= len(self._records.files):
            raise corrupt(f"there is no file {entry.file}", where)
        if entry.offset % RECORD_ALIGNMENT:
            raise corrupt(f"offset {entry.offset} is no multiple of {RECORD_ALIGNMENT}", where)
        file = self._records.files[entry.file]
        if entry.offset + length > file.num_bytes:
            raise corrupt(
                f"ends at {entry.offset + length}, behind the {file.num_bytes} bytes of "
                f"{file.name}",
                where,
            )

    def _remember(self, entries: Iterable[tuple[TensorEntry | ExpertEntry, int]]) -> None:
        rows = (
            (entry.file, entry.offset, entry.offset + length) for entry, length in entries if length
        )
        flat = np.fromiter((value for row in rows for value in row), np.int64)
        self._spans.append(flat.reshape(-1, 3))


def _check_header(header: Header, where: str) -> None:
    for field, text in (("model", header.model), ("version", header.version)):
        if not text.isprintable():
            raise corrupt("a name that can't be printed", f"{where}.{field}")
    for name in header.extras:
        if not FLAT_NAME.fullmatch(name) or name.endswith(".bin") or name == INDEX_NAME:
            raise corrupt("not the plain name of a small file", f"{where}.extras {name[:80]!r}")


def _length(shape: Sequence[int], dtype: str, where: str) -> int:
    if dtype not in DTYPE_BITS:
        raise corrupt(f"{dtype[:80]!r} is no dtype", where)
    try:
        return tensor_bytes(shape, dtype)
    except ValueError as error:
        raise corrupt(str(error), where) from error


def _file_record(entry: FileEntry) -> FileRecord:
    digits = bytes.fromhex(entry.chunk_checksums)
    checksums: list[Any] = np.frombuffer(digits, ">u8").tolist()
    return FileRecord(
        entry.name, entry.num_bytes, entry.sha256, entry.chunk_bytes, tuple(checksums)
    )


def _tensor_record(entry: TensorEntry, files: Sequence[FileEntry]) -> TensorRecord:
    span = Span(files[entry.file].name, entry.offset, entry.length)
    return TensorRecord(entry.name, span, entry.shape, entry.dtype)


def _expert_record(
    entry: ExpertEntry, files: Sequence[FileEntry], layouts: Sequence[_Layout]
) -> ExpertRecord:
    layout = layouts[entry.layout]
    key = ExpertKey(entry.layer, entry.tier, entry.group, entry.expert)
    span = Span(files[entry.file].name, entry.offset, layout.num_bytes)
    return ExpertRecord(key, layout.records(span), entry.router_row)
