"""Reads every byte of a checkpoint and names each that is not as the index says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lite_llm.checkpoint.files import read_into
from lite_llm.checkpoint.hashing import Checksums
from lite_llm.checkpoint.index import INDEX_NAME
from lite_llm.checkpoint.reader import Reader, open_checkpoint, open_sized, parse_index
from lite_llm.contracts.errors import LiteLLMError
from lite_llm.contracts.manifest import FileRecord, Manifest
from lite_llm.trust import ACCEPT_UNSIGNED, SignaturePolicy

PIECE_BYTES: Final = 4 << 20


@dataclass(frozen=True)
class Finding:
    """Something that is wrong."""

    file: str
    message: str
    reason: str = "Corrupt"
    """Name of the error that a reader would have raised."""
    chunk: int = -1
    """Number of the bad chunk, from 0; -1 where it is no matter of one."""
    offset: int = -1
    """Of the chunk in its file, in bytes."""
    length: int = 0
    """Of the chunk, in bytes."""


@dataclass(frozen=True)
class VerifyProgress:
    """How far the reading is, in bytes of all files."""

    file: str
    done_bytes: int
    total_bytes: int


def verify(
    directory: Path, *, policy: SignaturePolicy = ACCEPT_UNSIGNED
) -> Iterator[Finding | VerifyProgress]:
    """Check index, signature, files and their chunks; all is well if no :class:`Finding` comes.

    Reading goes on behind a bad chunk or file, so that all of them are named. A Hugging Face
    directory has no checksums: there the headers are checked and the bytes are read.
    """
    is_converted = os.path.lexists(directory / INDEX_NAME)
    try:
        if is_converted:
            manifest = parse_index(directory, policy)
        else:
            with open_checkpoint(directory, policy=policy, pickles=True) as reader:
                manifest = reader.manifest
    except LiteLLMError as error:
        yield _finding(INDEX_NAME if is_converted else directory.name, error)
        return
    done, total = 0, manifest.num_bytes
    for file in manifest.files:
        for seen in _verify_file(directory, file, is_converted):
            if isinstance(seen, Finding):
                yield seen
            else:
                yield VerifyProgress(file.name, done + seen, total)
        done += file.num_bytes
    yield from _verify_extras(directory, manifest, is_converted)
    yield VerifyProgress("", total, total)


def _verify_file(directory: Path, file: FileRecord, is_converted: bool) -> Iterator[Finding | int]:
    """Findings, and now and then how many bytes have been read."""
    path = directory / file.name
    try:
        descriptor = open_sized(directory, file, follow_links=not is_converted)
    except LiteLLMError as error:
        yield _finding(file.name, error)
        return
    try:
        checksums = Checksums(file.chunk_bytes)
        buffer = memoryview(bytearray(min(PIECE_BYTES, file.num_bytes)))
        num_checked = 0
        for offset in range(0, file.num_bytes, PIECE_BYTES):
            piece = buffer[: file.num_bytes - offset]
            read_into(descriptor, offset, piece, str(path))
            checksums.update(piece)
            yield from _bad_chunks(file, checksums.chunks, num_checked)
            num_checked = len(checksums.chunks)
            yield offset + len(piece)
        found = checksums.record(file.name)
        yield from _bad_chunks(file, found.chunk_checksums, num_checked)
        if file.sha256 and found.sha256 != file.sha256:
            yield Finding(file.name, "does not match its SHA-256")
    except LiteLLMError as error:
        yield _finding(file.name, error)
    finally:
        os.close(descriptor)


def _bad_chunks(
    file: FileRecord, found: list[int] | tuple[int, ...], first: int
) -> Iterator[Finding]:
    for number in range(first, len(found)):
        if found[number] != file.chunk_checksums[number]:
            offset = number * file.chunk_bytes
            yield Finding(
                file.name,
                f"chunk {number} at offset {offset} does not match its checksum",
                chunk=number,
                offset=offset,
                length=min(file.chunk_bytes, file.num_bytes - offset),
            )


def _verify_extras(directory: Path, manifest: Manifest, is_converted: bool) -> Iterator[Finding]:
    with Reader(directory, manifest, converted=is_converted) as reader:
        for name in sorted(manifest.extras):
            try:
                reader.extra(name)
            except LiteLLMError as error:
                yield _finding(name, error)


def _finding(file: str, error: LiteLLMError) -> Finding:
    return Finding(file, str(error), reason=type(error).__name__)
