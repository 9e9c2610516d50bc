"""From any checkpoint that can be opened to one in our own format, in bounded memory."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from lite_llm.checkpoint.dtypes import FLOATS, Buffer, converted
from lite_llm.checkpoint.files import read_small
from lite_llm.checkpoint.hugging_face import CONFIG, INDEX_SUFFIX, PICKLE, SAFETENSORS
from lite_llm.checkpoint.index import INDEX_NAME, MAJOR, MINOR, SIGNATURE_NAME
from lite_llm.checkpoint.layout import (
    MAX_FILE_BYTES,
    Copy,
    Layout,
    PlannedFile,
    Sized,
    SizedExpert,
    lay_out,
)
from lite_llm.checkpoint.reader import Reader, open_checkpoint, read_index
from lite_llm.checkpoint.sizes import tensor_bytes
from lite_llm.checkpoint.strict_json import canonical
from lite_llm.checkpoint.tiering import Assignment, TierRules, assign
from lite_llm.checkpoint.writer import CheckpointWriter, sign
from lite_llm.contracts.errors import InvalidRequest
from lite_llm.contracts.manifest import FileRecord, Manifest, Span, TensorRecord
from lite_llm.trust import PrivateKey

PIECE_BYTES: Final = 4 << 20  # read, converted and written at once
PIECES_AHEAD: Final = 4  # read while others are hashed and written
KEPT_EXACT: Final = ("e_score_correction_bias", "scale")
"""In names of floats that no ``dtype`` changes: they steer the router or the scaling of others."""

DTYPE_NAMES: Final = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""torch's names for what the ``dtype`` option takes, beside the short ones."""


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What a conversion changes; by default nothing but the layout."""

    dtype: str = ""
    """F32, F16 or BF16, also as torch names them: for all floats of 16 bits and more; empty keeps
    each as it is."""
    tiers: TierRules | None = None
    """Empty keeps the tiers of the source: all experts in one, for a Hugging Face directory."""
    model: str = ""
    """The model's name; empty takes the source's."""
    version: str = ""
    """``name-vMAJOR.MINOR.PATCH``; empty takes the source's."""
    key: PrivateKey | None = None
    """Signs the index."""
    max_file_bytes: int = MAX_FILE_BYTES
    """Of each ``.bin`` file; a larger record is refused."""

    def __post_init__(self) -> None:
        if self.dtype not in ("", *FLOATS, *DTYPE_NAMES):
            raise InvalidRequest(
                f"{self.dtype[:80]!r} is no dtype to convert to",
                where="dtype",
                remedy=f"choose from {', '.join(DTYPE_NAMES)}",
            )

    @property
    def storage_dtype(self) -> str:
        """``dtype`` by its safetensors name."""
        return DTYPE_NAMES.get(self.dtype, self.dtype)


@dataclass(frozen=True)
class ConvertProgress:
    """How far a conversion is, in bytes of the new checkpoint's ``.bin`` files."""

    file: str
    """Being written, or just found finished; empty at the end."""
    done_bytes: int
    total_bytes: int


def convert(
    source: Path, target: Path, options: ConvertOptions | None = None
) -> Generator[ConvertProgress, None, None]:
    """Write the checkpoint in ``source`` to ``target``; the work is done as one iterates.

    A conversion that was killed goes on where it stopped; one of an input that is there already
    writes nothing. Raises :class:`Conflict` if ``target`` holds another checkpoint or is being
    written, what :func:`open_checkpoint` and :func:`assign` raise, :class:`OutOfMemory` for a full
    disk, and :class:`Unsupported` for a number beyond the range of ``dtype``.
    """
    options = options or ConvertOptions()
    if target.resolve() == source.resolve():
        raise InvalidRequest("source and target are one directory", where=str(target))
    with open_checkpoint(source, pickles=True) as reader:
        assignment = _assignment(reader.manifest, options)
        layout = _planned(reader.manifest, assignment, options)
        total = sum(file.num_bytes for file in layout.files)
        with CheckpointWriter(target, _input_id(reader, options)) as writer:
            unchanged = writer.is_published
            if not unchanged:
                files = yield from _write_files(reader, layout, writer, total)
                extras = {name: _copy_extra(reader, writer, name) for name in _extras(reader)}
                manifest = replace(
                    reader.manifest,
                    model=options.model or reader.manifest.model,
                    version=options.version or reader.manifest.version,
                    architecture=_architecture(reader.manifest, options.storage_dtype),
                    tiers=assignment.tiers,
                    files=files,
                    tensors=layout.tensors,
                    experts=layout.experts,
                    extras=extras,
                )
                writer.publish(manifest, options.key)
        if unchanged:
            read_index(target)  # says so if a file has gone or shrunk since
        if unchanged and options.key and not _is_signed(target, options.key):
            sign(target, options.key)
    yield ConvertProgress("", total, total)


def _assignment(manifest: Manifest, options: ConvertOptions) -> Assignment:
    if options.tiers is None:
        return Assignment(manifest.tiers, manifest.experts)
    if not manifest.experts:
        raise InvalidRequest(
            "a dense model has no experts to assign",
            where="tiers",
            remedy="convert it without tiers",
        )
    return assign(manifest.experts, options.tiers)


def _planned(manifest: Manifest, assignment: Assignment, options: ConvertOptions) -> Layout:
    def sized(record: TensorRecord) -> Sized:
        dtype = _target_dtype(record, options.storage_dtype)
        return Sized(record, dtype, tensor_bytes(record.shape, dtype))

    return lay_out(
        map(sized, manifest.tensors),
        (SizedExpert(expert, tuple(map(sized, expert.parts))) for expert in assignment.experts),
        max_file_bytes=options.max_file_bytes,
    )


def _target_dtype(record: TensorRecord, wanted: str) -> str:
    exact = any(piece in record.name for piece in KEPT_EXACT)
    return wanted if wanted and record.dtype in FLOATS and not exact else record.dtype


def _write_files(
    reader: Reader, layout: Layout, writer: CheckpointWriter, total: int
) -> Generator[ConvertProgress, None, tuple[FileRecord, ...]]:
    records: list[FileRecord] = []
    done = 0
    with ThreadPoolExecutor(1, "reading") as reading:
        for planned in layout.files:
            record = writer.finished(planned.name)
            if record is None:
                with writer.file(planned.name, chunk_bytes=planned.chunk_bytes) as file:
                    for offset, data in _read_ahead(reader, planned, reading):
                        file.pad(offset)
                        file.write(data)
                        yield ConvertProgress(planned.name, done + offset, total)
                    file.pad(planned.num_bytes)
                record = writer.finished(planned.name)
                assert record is not None, "a file that was just published is gone"
            records.append(record)
            done += planned.num_bytes
            yield ConvertProgress(planned.name, done, total)
    return tuple(records)


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


def _extras(reader: Reader) -> list[str]:
    return sorted(reader.manifest.extras)


def _copy_extra(reader: Reader, writer: CheckpointWriter, name: str) -> str:
    if (record := writer.finished(name)) is None:
        with writer.file(name) as file:
            file.write(reader.extra(name))
        record = writer.finished(name)
        assert record is not None, "a file that was just published is gone"
    return record.sha256


def _architecture(manifest: Manifest, dtype: str) -> dict[str, Any]:
    """``config.json`` with the new dtype where it names one."""
    fields = dict(manifest.architecture)
    name = next((long for long, short in DTYPE_NAMES.items() if short == dtype), "")
    for field in ("dtype", "torch_dtype"):
        if name and field in fields:
            fields[field] = name
    return fields


def _input_id(reader: Reader, options: ConvertOptions) -> str:
    """What decides every byte of the output, and the times by which a changed source shows."""
    names = {file.name for file in reader.manifest.files} | reader.manifest.extras.keys()
    names |= {CONFIG, INDEX_NAME, SAFETENSORS + INDEX_SUFFIX, PICKLE + INDEX_SUFFIX}
    paths = [path for name in sorted(names) if (path := reader.directory / name).exists()]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    chosen = [
        options.storage_dtype,
        options.model or reader.manifest.model,
        options.version,
        options.max_file_bytes,
    ]
    tiers = msgspec.to_builtins(options.tiers)
    return hashlib.sha256(canonical([MAJOR, MINOR, stats, chosen, tiers])).hexdigest()


def _is_signed(directory: Path, key: PrivateKey) -> bool:
    signature = directory / SIGNATURE_NAME
    data = (directory / INDEX_NAME).read_bytes()
    return signature.exists() and key.public.verifies(read_small(signature, max_bytes=64), data)
