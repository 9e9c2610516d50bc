"""The header of a safetensors file, read by the format's own rules and bounds."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct

from lite_llm.checkpoint.files import open_plain, read_into
from lite_llm.checkpoint.index import Dims, Natural
from lite_llm.checkpoint.json_members import members, scan
from lite_llm.checkpoint.sizes import tensor_bytes
from lite_llm.checkpoint.strict_json import corrupt, decoded, refuse_duplicate_keys
from lite_llm.contracts.errors import Corrupt
from lite_llm.contracts.manifest import Span, TensorRecord

LENGTH_BYTES: Final = 8  # of the header's length, before it
MAX_HEADER_BYTES: Final = 16 << 20
"""The format allows 100 MB; a tensor takes some 120 bytes."""
MAX_TENSORS: Final = 100_000
"""Of one file: DeepSeek-V3 has 92,000, in 163 files. Checking as many takes half a second."""

_METADATA = "__metadata__"
_MAX_METADATA_BYTES = 1 << 20
_MAX_ENTRY_BYTES = 1 << 10  # sixteen dimensions of twenty digits and two offsets take half of it


class _Entry(Struct, forbid_unknown_fields=True, gc=False):
    dtype: str
    shape: Dims
    data_offsets: tuple[Natural, Natural]


_decode: Final = msgspec.json.Decoder(_Entry).decode


@dataclass(frozen=True)
class SafetensorsFile:
    """What one file holds."""

    num_bytes: int
    tensors: tuple[TensorRecord, ...]
    """In order of offset."""


def read_header(path: Path) -> SafetensorsFile:
    """The tensors of the file at ``path``, which is named by its own name in their spans.

    Raises :class:`Corrupt` naming file and tensor for whatever the format forbids: a header longer
    than :data:`MAX_HEADER_BYTES` or the file, a key twice, an unknown dtype, a length that does not
    follow from the shape, holes, overlaps, and bytes behind the last tensor.
    """
    descriptor = open_plain(path, follow_links=True)
    try:
        num_bytes = os.fstat(descriptor).st_size
        data = _header_bytes(descriptor, num_bytes, str(path))
    finally:
        os.close(descriptor)
    _check(data, num_bytes, path)
    # Only now, for what is kept of each tensor takes several times the bytes that describe it.
    start = LENGTH_BYTES + len(data)
    records = [
        TensorRecord(name, Span(path.name, start + begin, end - begin), entry.shape, entry.dtype)
        for name, value in scan(data, str(path))
        if name != _METADATA
        for entry in [_decode(value)]
        for begin, end in [entry.data_offsets]
    ]
    records.sort(key=lambda record: (record.span.offset, record.span.end, record.name))
    return SafetensorsFile(num_bytes, tuple(records))


def _header_bytes(descriptor: int, num_bytes: int, where: str) -> bytearray:
    prefix = bytearray(LENGTH_BYTES)
    read_into(descriptor, 0, memoryview(prefix), where)
    length = int.from_bytes(prefix, "little")
    if length > min(MAX_HEADER_BYTES, num_bytes - LENGTH_BYTES):
        raise corrupt(
            f"a header of {length} bytes in a file of {num_bytes}; at most {MAX_HEADER_BYTES} are "
            "read",
            where,
        )
    header = bytearray(length)
    read_into(descriptor, LENGTH_BYTES, memoryview(header), where)
    return header


def _check(data: bytearray, num_bytes: int, path: Path) -> None:
    """Hold each tensor against the format's rules, and all of them against the file's size."""
    begins, ends = array("q"), array("q")
    for begin, end in _checked_offsets(data, path):
        begins.append(begin)
        ends.append(end)
    first, last = np.frombuffer(begins, np.int64), np.frombuffer(ends, np.int64)
    order = np.lexsort((last, first))
    expected = np.concatenate([[0], last[order]])
    if (wrong := np.flatnonzero(first[order] != expected[:-1])).size:
        number = int(wrong[0])
        name = _nth_tensor(data, int(order[number]), path)
        raise _wrong(
            f"begins at {first[order[number]]}, but the tensor before ended at {expected[number]}",
            path,
            name,
        )
    end = LENGTH_BYTES + len(data) + int(expected[-1])
    if end != num_bytes:
        raise corrupt(
            f"{num_bytes} bytes, but its tensors end at {end}: truncated or padded", str(path)
        )


def _checked_offsets(data: bytearray, path: Path) -> Iterator[tuple[int, int]]:
    for name, value in members(data, f"{path}: header", max_count=MAX_TENSORS):
        if name == _METADATA:
            _check_metadata(value, f"{path}: {name}")
            continue
        if len(value) > _MAX_ENTRY_BYTES:
            raise _wrong(f"{len(value)} bytes to describe one tensor", path, name)
        try:
            entry = _decode(value)
            num_bytes = tensor_bytes(entry.shape, entry.dtype)
        except KeyError as error:
            raise _wrong(f"{str(error)[:80]} is no dtype", path, name) from error
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise _wrong(str(error), path, name) from error
        if value.count(b":") > len(_Entry.__struct_fields__):
            raise _wrong("a key twice", path, name)
        if not name.isprintable() or not name:
            raise _wrong("a name that can't be printed", path, name)
        begin, end = entry.data_offsets
        if end - begin != num_bytes:
            raise _wrong(
                f"{end - begin} bytes for {entry.dtype} of shape {entry.shape}: {num_bytes} "
                "expected",
                path,
                name,
            )
        yield begin, end


def _wrong(message: str, path: Path, name: str) -> Corrupt:
    return corrupt(message, f"{path}: {name[:200]!r}")


def _check_metadata(value: bytes, where: str) -> None:
    if len(value) > _MAX_METADATA_BYTES:
        raise corrupt(f"{len(value)} bytes, more than {_MAX_METADATA_BYTES}", where)
    decoded(value, dict[str, str], where)
    refuse_duplicate_keys(value, where)


def _nth_tensor(data: bytearray, number: int, path: Path) -> str:
    names = (name for name, _ in scan(data, str(path)) if name != _METADATA)
    return next(islice(names, number, None))
