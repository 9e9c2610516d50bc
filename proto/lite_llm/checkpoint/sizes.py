"""Where bytes may begin and how many a tensor has: the arithmetic that writer and reader share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Final

from lite_llm.contracts.manifest import DTYPE_BITS, PART_ALIGNMENT

RECORD_ALIGNMENT: Final = 4096
"""Records start at multiples of this many bytes: what direct I/O asks of offsets and lengths."""


def aligned(offset: int, alignment: int = RECORD_ALIGNMENT) -> int:
    """The first multiple of ``alignment`` at or behind ``offset``."""
    return -(-offset // alignment) * alignment


def tensor_bytes(shape: Sequence[int], dtype: str) -> int:
    """Bytes of a tensor; raises KeyError for an unknown dtype, ValueError for half a byte."""
    num_bytes, rest = divmod(prod(shape) * DTYPE_BITS[dtype], 8)
    if rest:
        raise ValueError(f"{dtype} elements of shape {tuple(shape)} fill no whole bytes")
    return num_bytes


def part_offsets(lengths: Iterable[int]) -> tuple[list[int], int]:
    """Offsets of an expert's parts within its record, and the record's length, in bytes."""
    offsets: list[int] = []
    end = 0
    for length in lengths:
        offsets.append(aligned(end, PART_ALIGNMENT))
        end = offsets[-1] + length
    return offsets, end
