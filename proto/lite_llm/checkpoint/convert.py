"""From any checkpoint that can be opened to one in our own format, in bounded memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from lite_llm.checkpoint.conversion import Conversion, ConvertOptions
from lite_llm.checkpoint.copying import copy_file
from lite_llm.checkpoint.hashing import HashingFile
from lite_llm.checkpoint.index import INDEX_NAME, encode
from lite_llm.checkpoint.reader import open_checkpoint, parse_index, read_index
from lite_llm.checkpoint.signatures import sign, signature_of
from lite_llm.checkpoint.writer import CheckpointWriter
from lite_llm.contracts.errors import InvalidRequest
from lite_llm.contracts.manifest import FileRecord


class ConvertOutcome(Enum):
    """What a conversion that came to its end did."""

    WRITTEN = "written"
    RESUMED = "resumed"
    """Written, in part by an earlier run that was interrupted."""
    SIGNED = "signed"
    """Only the signature: the checkpoint was there already."""
    UNCHANGED = "unchanged"
    """Nothing: all was there already."""


@dataclass(frozen=True)
class ConvertProgress:
    """How far a conversion is, in bytes of the new checkpoint's ``.bin`` files."""

    file: str
    """Being written, or just found finished; empty at the end."""
    done_bytes: int
    total_bytes: int
    found_bytes: int = 0
    """Of those done, what had been written before this run."""
    outcome: ConvertOutcome | None = None
    """In the last step, and only there."""


Steps = Generator[ConvertProgress, None, None]


def convert(source: Path, target: Path, options: ConvertOptions | None = None) -> Steps:
    """Write the checkpoint in ``source`` to ``target``; the work is done as one iterates.

    A conversion that was killed goes on where it stopped; one of an input that is there already
    writes nothing. The input is the same if sizes and times of its files are, or else if every
    byte of what it would become is there, for which the source is read once more. Raises
    :class:`Conflict` if ``target`` holds another checkpoint or is being written, what
    :func:`open_checkpoint` and :func:`assign` raise, :class:`OutOfMemory` for a full disk, and
    :class:`Unsupported` for a number beyond the range of ``dtype``.
    """
    options = options or ConvertOptions()
    if target.resolve() == source.resolve():
        raise InvalidRequest("source and target are one directory", where=str(target))
    with open_checkpoint(source, pickles=True) as reader:
        conversion = Conversion(reader, options)
        total = conversion.total_bytes
        with CheckpointWriter(target, conversion.input_id()) as writer:
            if writer.holds_another:
                yield from _compare(conversion, writer)
                writer.adopt()
            if writer.is_published:
                found, outcome = total, ConvertOutcome.UNCHANGED
            else:
                found = yield from _write(conversion, writer)
                outcome = ConvertOutcome.RESUMED if found else ConvertOutcome.WRITTEN
    if outcome is ConvertOutcome.UNCHANGED:
        read_index(target)  # says so if a file has gone or shrunk since
        key = options.key
        if key and signature_of(target, (key.public,)).signer != key.public:
            sign(target, key)
            outcome = ConvertOutcome.SIGNED
    yield ConvertProgress("", total, total, found, outcome)


def _write(
    conversion: Conversion, writer: CheckpointWriter
) -> Generator[ConvertProgress, None, int]:
    """All files, then the index; returns how many bytes an earlier run had written."""
    reader, total = conversion.reader, conversion.total_bytes
    records: list[FileRecord] = []
    done = found = 0
    with ThreadPoolExecutor(1, "reading") as reading:
        for planned in conversion.layout.files:
            record = writer.finished(planned.name)
            if record is not None:
                found += planned.num_bytes
            else:
                with writer.file(planned.name, chunk_bytes=planned.chunk_bytes) as file:
                    for written in copy_file(reader, planned, file, reading):
                        yield ConvertProgress(planned.name, done + written, total, found)
                record = writer.finished(planned.name)
                assert record is not None, "a file that was just published is gone"
            records.append(record)
            done += planned.num_bytes
            yield ConvertProgress(planned.name, done, total, found)
    extras = {name: _copy_extra(conversion, writer, name) for name in sorted(_extras(conversion))}
    writer.publish(conversion.manifest(tuple(records), extras), conversion.options.key)
    return found


def _copy_extra(conversion: Conversion, writer: CheckpointWriter, name: str) -> str:
    if (record := writer.finished(name)) is None:
        with writer.file(name) as file:
            file.write(conversion.reader.extra(name))
        record = writer.finished(name)
        assert record is not None, "a file that was just published is gone"
    return record.sha256


def _extras(conversion: Conversion) -> set[str]:
    return set(conversion.reader.manifest.extras)


def _compare(conversion: Conversion, writer: CheckpointWriter) -> Steps:
    """Return if the published checkpoint is what this conversion would write, byte for byte.

    Otherwise raises :class:`Conflict`, and as early as it shows: from the index alone where names,
    sizes or settings differ.
    """
    published = parse_index(writer.directory).file_by_name
    layout = conversion.layout
    files = [published.get(planned.name) for planned in layout.files]
    records = tuple(record for record in files if record is not None)
    extras = {
        name: hashlib.sha256(conversion.reader.extra(name)).hexdigest()
        for name in _extras(conversion)
    }
    would_be = encode(conversion.manifest(records, extras)) if None not in files else b""
    if would_be != (writer.directory / INDEX_NAME).read_bytes():
        raise writer.conflict()
    total, done = conversion.total_bytes, 0
    with (
        ThreadPoolExecutor(1, "reading") as reading,
        ThreadPoolExecutor(1, "checksums") as hashing,
        Path(os.devnull).open("wb", buffering=0) as nowhere,
    ):
        for planned, expected in zip(layout.files, records, strict=True):
            file = HashingFile(nowhere, planned.chunk_bytes, hashing)
            for seen in copy_file(conversion.reader, planned, file, reading):
                if not file.begins(expected):
                    raise writer.conflict()
                yield ConvertProgress(planned.name, done + seen, total, done + seen)
            if file.record(planned.name) != expected:
                raise writer.conflict()
            done += planned.num_bytes
