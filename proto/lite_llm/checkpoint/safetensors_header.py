"""The header of a safetensors file, read by the format's own rules and bounds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from lite_llm.checkpoint.files import open_plain, read_into
from lite_llm.checkpoint.index import Dims, Natural
from lite_llm.checkpoint.sizes import tensor_bytes
from lite_llm.checkpoint.strict_json import corrupt, decoded, refuse_duplicate_keys
from lite_llm.contracts.manifest import DTYPE_BITS, Span, TensorRecord

LENGTH_BYTES: Final = 8  # of the header's length, before it
MAX_HEADER_BYTES: Final = 16 << 20
"""The format allows 100 MB; all the tensors that one file may have here need half of this."""
MAX_OBJECTS: Final = 1 << 16  # tensors of one file; keeps what parsing costs within 64 MiB

_METADATA = "__metadata__"


class _Entry(Struct, forbid_unknown_fields=True, gc=False):
    dtype: str
    shape: Dims
    data_offsets: tuple[Natural, Natural]


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
    where = f"{path}: header"
    if data.count(b"{") > MAX_OBJECTS:
        raise corrupt(f"more than {MAX_OBJECTS} objects", where)
    raw = decoded(data, dict[str, msgspec.Raw], where)
    if _METADATA in raw:
        decoded(raw.pop(_METADATA), dict[str, str], f"{where}.{_METADATA}")
    entries: dict[str, _Entry] = {}
    while raw:  # emptied as it is read: together they would pass the bound on memory
        name, value = raw.popitem()
        entries[name] = decoded(value, _Entry, f"{where}.{name}")
    refuse_duplicate_keys(data, where)
    return SafetensorsFile(
        num_bytes, tuple(_records(entries, path, LENGTH_BYTES + len(data), num_bytes))
    )


def _header_bytes(descriptor: int, num_bytes: int, where: str) -> bytes:
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
    return bytes(header)


def _records(
    entries: Mapping[str, _Entry], path: Path, start: int, num_bytes: int
) -> list[TensorRecord]:
    records = []
    expected = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].data_offsets, item[0])):
        where = f"{path}: {name[:200]!r}"
        if not name.isprintable() or not name:
            raise corrupt("a name that can't be printed", where)
        if entry.dtype not in DTYPE_BITS:
            raise corrupt(f"{entry.dtype[:80]!r} is no dtype", where)
        begin, end = entry.data_offsets
        if begin != expected or end < begin:
            raise corrupt(f"begins at {begin}, but the tensor before ended at {expected}", where)
        try:
            length = tensor_bytes(entry.shape, entry.dtype)
        except ValueError as error:
            raise corrupt(str(error), where) from error
        if end - begin != length:
            raise corrupt(
                f"{end - begin} bytes for {entry.dtype} of shape {entry.shape}: {length} expected",
                where,
            )
        expected = end
        span = Span(path.name, start + begin, length)
        records.append(TensorRecord(name, span, entry.shape, entry.dtype))
    if start + expected != num_bytes:
        raise corrupt(
            f"{num_bytes} bytes, but its tensors end at {start + expected}: truncated or padded",
            str(path),
        )
    return records
