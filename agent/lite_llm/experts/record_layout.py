"""How an expert lies in memory: as stored, and as the products want it.

Mostly the two are one, and a record is copied as it is. Experts that are stored transposed,
interleaved, quantised or in another type are converted on their way into a hot slot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lite_llm.contracts.manifest import PART_ALIGNMENT, ExpertRecord
from lite_llm.experts.bank import ExpertWeights, Matrix
from lite_llm.experts.layout import matrices_of
from lite_llm.experts.stored import FLOATS, STORED_DTYPES, bytes_of
from lite_llm.tiers import Piece


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor within the memory of an expert."""

    name: str
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def end(self) -> int:
        """Offset behind it."""
        return self.offset + self.dtype.itemsize * torch.Size(self.shape).numel()

    def of(self, memory_B: Tensor) -> Tensor:
        """The tensor over its bytes."""
        return memory_B[self.offset : self.end].view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class RecordLayout:
    """Of all experts that are stored alike."""

    stored: tuple[Part, ...]
    dtype: torch.dtype
    """Of the products."""

    @cached_property
    def computed(self) -> tuple[Part, ...]:
        """Weights, then biases, of gate, up and down, converted; packed without regard to files."""
        shapes = self._converted({part.name: _unreal(part) for part in self.stored})
        return tuple(_packed((n, tuple(t.shape), t.dtype) for n, t in _tensors(shapes)))

    @cached_property
    def is_verbatim(self) -> bool:
        """Whether products run on the stored bytes."""
        plain = ("gate", "up", "gate_up", "down")
        return all(
            part.dtype is self.dtype
            and part.name.partition(".")[0] in plain
            and part.name.partition(".")[2] in ("weight", "bias")
            for part in self.stored
        )

    @property
    def num_bytes(self) -> int:
        """In a hot slot."""
        return max(part.end for part in (self.stored if self.is_verbatim else self.computed))

    def weights(self, memory_B: Tensor) -> ExpertWeights:
        """Of what lies in a hot slot: views."""
        if self.is_verbatim:
            return matrices_of({part.name: part.of(memory_B) for part in self.stored}, self.dtype)
        tensors = {part.name: part.of(memory_B) for part in self.computed}
        gate, up, down = (
            Matrix(tensors[f"{role}.weight"], tensors.get(f"{role}.bias"))
            for role in ("gate", "up", "down")
        )
        return ExpertWeights(gate, up, down)

    def convert(self, record: memoryview, slot: ExpertWeights) -> None:
        """Stored bytes into a hot slot's weights."""
        memory_B = bytes_of(record)
        converted = self._converted({part.name: part.of(memory_B) for part in self.stored})
        for (_, source), (_, target) in zip(_tensors(converted), _tensors(slot), strict=True):
            target.copy_(source)

    def _converted(self, stored: Mapping[str, Tensor]) -> ExpertWeights:
        return matrices_of(
            {name: converted(tensor, name, self.dtype) for name, tensor in stored.items()},
            self.dtype,
        )


_FLOATS = frozenset(STORED_DTYPES[name] for name in FLOATS)


def converted(stored: Tensor, name: str, dtype: torch.dtype) -> Tensor:
    """A part in the model's dtype, unless it is quantised or scales what is."""
    return stored.to(dtype) if stored.dtype in _FLOATS and "scale" not in name else stored


def layout_of(record: ExpertRecord, dtype: torch.dtype) -> tuple[RecordLayout, tuple[Piece, ...]]:
    """The record's layout, and what to read to where."""
    parts = [(part.name, part.shape, STORED_DTYPES[part.dtype]) for part in record.parts]
    span = record.span
    offsets = [0 if span is None else part.span.offset - span.offset for part in record.parts]
    if span is not None and all(offset % PART_ALIGNMENT == 0 for offset in offsets):
        placed = (
            Part(name, at, shape, kind)
            for (name, shape, kind), at in zip(parts, offsets, strict=True)
        )
        return RecordLayout(tuple(placed), dtype), (Piece(span, 0),)
    # Scattered, or side by side with no border that every type can be viewed from.
    packed = tuple(_packed(parts))
    pieces = (Piece(part.span, at.offset) for part, at in zip(record.parts, packed, strict=True))
    return RecordLayout(packed, dtype), tuple(pieces)


def _packed(tensors: Iterable[tuple[str, tuple[int, ...], torch.dtype]]) -> Iterator[Part]:
    offset = 0
    for name, shape, dtype in tensors:
        part = Part(name, -(-offset // PART_ALIGNMENT) * PART_ALIGNMENT, shape, dtype)
        yield part
        offset = part.end


def _tensors(weights: ExpertWeights) -> list[tuple[str, Tensor]]:
    roles = {"gate": weights.gate, "up": weights.up, "down": weights.down}
    return [
        *((f"{role}.weight", matrix.weight_NK) for role, matrix in roles.items()),
        *((f"{role}.bias", m.bias_N) for role, m in roles.items() if m.bias_N is not None),
    ]


def _unreal(part: Part) -> Tensor:
    return torch.empty(part.shape, dtype=part.dtype, device="meta")
