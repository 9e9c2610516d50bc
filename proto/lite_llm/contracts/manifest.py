"""What a checkpoint holds and where each byte of it lies, as every reader sees it (SPEC-029).

The same value describes a checkpoint in our own format and a Hugging Face directory that was never
converted; how it is written down is the business of ``lite_llm.checkpoint``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from math import prod
from types import MappingProxyType
from typing import Any, Final

from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.tiers import Tier

DTYPE_BITS: Final = MappingProxyType(
    {
        "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
        "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
        "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
        "U32": 32, "I32": 32, "F32": 32,
        "U64": 64, "I64": 64, "F64": 64, "C64": 64,
    }
)  # fmt: skip
"""Storage types by their safetensors names, and bits per element."""

PART_ALIGNMENT: Final = 256
"""Parts of an expert start at multiples of this many bytes, as devices like to load (SPEC-007)."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes ``offset`` to ``offset + length`` of one file of the checkpoint."""

    file: str
    """Name relative to the checkpoint's root, with ``/`` between parts."""
    offset: int
    length: int

    @property
    def end(self) -> int:
        """Offset of the first byte behind the span."""
        return self.offset + self.length

    def part(self, offset: int, length: int) -> Span:
        """A span within this one; ``offset`` counts from its start."""
        assert 0 <= offset <= offset + length <= self.length, (self, offset, length)
        return Span(self.file, self.offset + offset, length)


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One tensor, contiguous, row-major, little-endian."""

    name: str
    """As the architecture's Hugging Face checkpoint calls it; an expert's part by its role, such
    as ``gate.weight``."""
    span: Span
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_elements(self) -> int:
        """Product of the shape; 1 for a scalar."""
        return prod(self.shape)


@dataclass(frozen=True)
class ExpertRecord:
    """One expert's weights: in our own format one contiguous span, read at once."""

    key: ExpertKey
    parts: tuple[TensorRecord, ...]
    """In the order gate, up, down, then scales and biases; adjacent where converted."""
    router_row: int = -1
    """The expert's number in its layer before tiers were drawn: its row of the router's matrix."""

    @cached_property
    def part_by_name(self) -> Mapping[str, TensorRecord]:
        return {part.name: part for part in self.parts}

    @property
    def span(self) -> Span | None:
        """The one span of all parts with the padding between; None where they lie scattered."""
        first, last = self.parts[0].span, self.parts[-1].span
        for before, after in pairwise(part.span for part in self.parts):
            if after.file != before.file or not 0 <= after.offset - before.end < PART_ALIGNMENT:
                return None
        return Span(first.file, first.offset, last.end - first.offset)

    @property
    def num_bytes(self) -> int:
        """Without padding between the parts."""
        return sum(part.span.length for part in self.parts)

    @property
    def num_parameters(self) -> int:
        """Elements of all parts: what a tier's parameter budget counts."""
        return sum(part.num_elements for part in self.parts)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file, with what proves its bytes."""

    name: str
    num_bytes: int
    sha256: str = ""
    """Of the whole file, lower-case hexadecimal; empty where nothing is known (Hugging Face)."""
    chunk_bytes: int = 0
    """Size of a checked chunk; the last one may be shorter. 0: the file has no chunk checksums."""
    chunk_checksums: tuple[int, ...] = ()
    """xxh3-64 of each chunk."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A checkpoint's contents. Records are sorted: tensors by file and offset, experts by key."""

    model: str
    version: str = ""
    """``name-vMAJOR.MINOR.PATCH`` (SPEC-040); empty where nothing says."""
    step: int = 0
    """Training steps behind these weights; 0 where nothing says."""
    architecture: Mapping[str, Any]
    """The fields of the Hugging Face ``config.json``."""
    routing_seed: int = 0
    """Base of the routing seeds that the model was trained with (SPEC-003), 128 bits, unsigned."""
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    """What a trainer needs to go on from here: the optimizer's name and numbers. No weights."""
    tiers: tuple[Tier, ...] = ()
    """Empty for a dense model."""
    files: tuple[FileRecord, ...]
    tensors: tuple[TensorRecord, ...]
    """Everything that is not an expert."""
    experts: tuple[ExpertRecord, ...] = ()
    extras: Mapping[str, str] = field(default_factory=dict)
    """Small files that travel along (tokenizer, generation config), name to SHA-256; empty where
    nothing is known (Hugging Face)."""

    @cached_property
    def tensor_by_name(self) -> Mapping[str, TensorRecord]:
        return {record.name: record for record in self.tensors}

    @cached_property
    def expert_by_key(self) -> Mapping[ExpertKey, ExpertRecord]:
        return {record.key: record for record in self.experts}

    @cached_property
    def file_by_name(self) -> Mapping[str, FileRecord]:
        return {record.name: record for record in self.files}

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(record.num_bytes for record in self.files)
