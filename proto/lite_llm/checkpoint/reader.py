"""One reader for every checkpoint: its manifest, and the bytes of any span of it."""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import xxhash
from numpy.typing import NDArray

from lite_llm.checkpoint.checks import manifest_of
from lite_llm.checkpoint.dtypes import Buffer, as_array
from lite_llm.checkpoint.files import open_plain, read_into, read_small
from lite_llm.checkpoint.hugging_face import describe
from lite_llm.checkpoint.index import INDEX_NAME, MAX_INDEX_BYTES, decode
from lite_llm.checkpoint.signatures import read_signature
from lite_llm.checkpoint.strict_json import corrupt
from lite_llm.contracts.errors import InvalidRequest
from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.manifest import ExpertRecord, FileRecord, Manifest, Span, TensorRecord
from lite_llm.trust import ACCEPT_UNSIGNED, SignaturePolicy

MAX_EXTRA_BYTES: Final = 256 << 20  # the largest tokenizer of the hub has a tenth of it


def open_checkpoint(
    directory: Path, *, policy: SignaturePolicy = ACCEPT_UNSIGNED, pickles: bool = False
) -> Reader:
    """A reader of the checkpoint in ``directory``: our own format, or Hugging Face's as it is.

    Index, signature and file sizes are checked now, the bytes of the weights are not: see
    :meth:`Reader.read_checked` and :func:`lite_llm.checkpoint.verify`. ``pickles`` also admits
    torch's ``.bin`` files. Raises :class:`Corrupt`, :class:`VersionMismatch`, :class:`OverBudget`,
    :class:`Unsupported`, and :class:`Forbidden` for what the policy refuses.
    """
    if (directory / INDEX_NAME).exists() or (directory / INDEX_NAME).is_symlink():
        return Reader(directory, read_index(directory, policy), converted=True)
    policy.check(b"", None, where=str(directory))
    return Reader(directory, describe(directory, pickles=pickles), converted=False)


def read_index(directory: Path, policy: SignaturePolicy = ACCEPT_UNSIGNED) -> Manifest:
    """The manifest in ``directory``'s index, checked against the policy and the files' sizes."""
    manifest = parse_index(directory, policy)
    for file in manifest.files:
        os.close(open_sized(directory, file))
    return manifest


def parse_index(directory: Path, policy: SignaturePolicy = ACCEPT_UNSIGNED) -> Manifest:
    """The manifest in ``directory``'s index, checked against the policy but not the files."""
    path = directory / INDEX_NAME
    data = read_small(path, max_bytes=MAX_INDEX_BYTES)
    policy.check(data, read_signature(directory), where=str(path))
    return manifest_of(*decode(data, str(path)), str(path))


def open_sized(directory: Path, file: FileRecord, *, follow_links: bool = False) -> int:
    """A descriptor of ``file``, if it is a plain file as long as the index says."""
    path = directory / file.name
    descriptor = open_plain(path, follow_links=follow_links)
    num_bytes = os.fstat(descriptor).st_size
    if num_bytes != file.num_bytes:
        os.close(descriptor)
        raise corrupt(f"{num_bytes} bytes, but the index says {file.num_bytes}", str(path))
    return descriptor


class Reader:
    """Bytes of a checkpoint by span, tensor or expert; use as a context manager.

    Any number of threads may read at once. Files are opened when they are first read from, and
    stay open.
    """

    def __init__(self, directory: Path, manifest: Manifest, *, converted: bool) -> None:
        self.directory = directory
        self.manifest = manifest
        self.converted = converted
        """Our own format; otherwise a Hugging Face directory, which has no checksums."""
        self._opening = threading.Lock()
        self._descriptors: dict[str, int] = {}
        self._maps: dict[str, mmap.mmap] = {}
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files. Views that were mapped stay valid until they are dropped."""
        with self._opening:
            self._maps.clear()
            self._descriptors.clear()
            self._cleanup.close()

    def open_all(self) -> None:
        """Open every file now, so that the checkpoint may be removed while it is read."""
        for file in self.manifest.files:
            self._descriptor(file.name)

    def path(self, file: str) -> Path:
        """Where one of the manifest's files lies."""
        return self.directory / self.manifest.file_by_name[file].name

    def read_into(self, span: Span, buffer: Buffer) -> None:
        """Fill ``buffer``, bytes as many as ``span`` has, without checking a checksum."""
        view = memoryview(buffer)
        if len(view) != span.length:
            raise InvalidRequest(
                f"a buffer of {len(view)} bytes for a span of {span.length}", where=str(span)
            )
        read_into(self._descriptor(span.file), span.offset, view, str(self.path(span.file)))

    def read(self, span: Span) -> bytearray:
        """The bytes of ``span`` in memory of their own."""
        buffer = bytearray(span.length)
        self.read_into(span, buffer)
        return buffer

    def map(self, span: Span) -> memoryview:
        """The bytes of ``span`` without a copy or a check, read-only; the page cache owns them.

        Only for files that nobody writes to: one that shrinks while it is mapped takes the process
        down with SIGBUS.
        """
        descriptor = self._descriptor(span.file)
        if not span.length:
            return memoryview(b"")  # an empty file can't be mapped
        with self._opening:
            if span.file not in self._maps:
                self._maps[span.file] = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            view = memoryview(self._maps[span.file])
        if span.end > len(view):
            raise corrupt(f"ends at {len(view)}, not {span.end}", str(self.path(span.file)))
        return view[span.offset : span.end]

    def read_checked(self, span: Span) -> memoryview:
        """The bytes of ``span``, once every chunk that it touches matched its checksum.

        Raises :class:`Corrupt` naming file, chunk and offset. A file without checksums (Hugging
        Face's) is read as it is.
        """
        file = self.manifest.file_by_name[span.file]
        if not file.chunk_bytes or not span.length:
            return memoryview(self.read(span))
        first = span.offset // file.chunk_bytes
        start = first * file.chunk_bytes
        end = min(-(-span.end // file.chunk_bytes) * file.chunk_bytes, file.num_bytes)
        view = memoryview(self.read(Span(span.file, start, end - start)))
        for number in range(first, -(-end // file.chunk_bytes)):
            offset = number * file.chunk_bytes
            chunk = view[offset - start : offset - start + file.chunk_bytes]
            if xxhash.xxh3_64_intdigest(chunk) != file.chunk_checksums[number]:
                raise corrupt(
                    f"chunk {number} at offset {offset} does not match its checksum",
                    str(self.path(span.file)),
                )
        return view[span.offset - start : span.end - start]

    def tensor(self, name: str) -> NDArray[Any]:
        """A dense tensor, checked; bfloat16 and narrower floats come as their bits (see docs)."""
        record = self.manifest.tensor_by_name.get(name)
        if record is None:
            raise InvalidRequest(f"there is no tensor {name[:80]!r}", where=str(self.directory))
        return self._array(record)

    def expert(self, key: ExpertKey) -> dict[str, NDArray[Any]]:
        """An expert's parts by role, checked; in our own format with one read."""
        record = self._expert_record(key)
        if (span := record.span) is None:
            return {part.name: self._array(part) for part in record.parts}
        view = self.read_checked(span)
        return {
            part.name: as_array(
                view[part.span.offset - span.offset : part.span.end - span.offset],
                part.dtype,
                part.shape,
            )
            for part in record.parts
        }

    def extra(self, name: str) -> bytes:
        """One of the small files that travel along, checked where its SHA-256 is known."""
        expected = self.manifest.extras.get(name)
        if expected is None:
            raise InvalidRequest(f"there is no file {name[:80]!r}", where=str(self.directory))
        path = self.directory / name
        data = read_small(path, max_bytes=MAX_EXTRA_BYTES, follow_links=not self.converted)
        if expected and hashlib.sha256(data).hexdigest() != expected:
            raise corrupt("does not match its SHA-256", str(path))
        return data

    def _expert_record(self, key: ExpertKey) -> ExpertRecord:
        record = self.manifest.expert_by_key.get(key)
        if record is None:
            raise InvalidRequest(f"there is no expert {key}", where=str(self.directory))
        return record

    def _array(self, record: TensorRecord) -> NDArray[Any]:
        return as_array(self.read_checked(record.span), record.dtype, record.shape)

    def _descriptor(self, file: str) -> int:
        with self._opening:
            if file not in self._descriptors:
                path = self.path(file)
                descriptor = open_plain(path, follow_links=not self.converted)
                self._cleanup.callback(os.close, descriptor)
                self._descriptors[file] = descriptor
            return self._descriptors[file]
