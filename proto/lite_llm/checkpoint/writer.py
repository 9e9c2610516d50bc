"""Writes a checkpoint file by file in bounded memory; a killed writer goes on where it stopped.

The index comes last: a directory without one is no checkpoint yet, and one that has it is never
written to again.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from lite_llm.checkpoint.checks import FLAT_NAME
from lite_llm.checkpoint.durable import append_durably, published, remove_partials, write_published
from lite_llm.checkpoint.hashing import HashingFile
from lite_llm.checkpoint.index import INDEX_NAME, SIGNATURE_NAME, encode
from lite_llm.checkpoint.lease import writer_lease
from lite_llm.checkpoint.strict_json import canonical
from lite_llm.contracts.errors import Conflict, LiteLLMError, OutOfMemory, StorageFailed
from lite_llm.contracts.manifest import FileRecord, Manifest
from lite_llm.trust import PrivateKey

JOURNAL: Final = ".writer.journal"
"""In its first line the input that a directory is made from, then a line per finished file."""


class CheckpointWriter:
    """The one writer of ``directory``; use as a context manager.

    ``input_id`` names what is written: the same one resumes after a crash and finds its finished
    files. Another one starts over, but where a checkpoint is published it may not write: every
    method that would raises :class:`Conflict`.
    """

    def __init__(self, directory: Path, input_id: str) -> None:
        self.directory = directory
        self._input_id = input_id
        self._finished: dict[str, FileRecord] = {}
        self._cleanup = ExitStack()
        self.holds_another = False
        """Whether a checkpoint of another input is published here."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(writer_lease(self.directory))
            self._hashing = stack.enter_context(ThreadPoolExecutor(1, "checksums"))
            self._resume()
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    @property
    def is_published(self) -> bool:
        """Whether this input is there already, complete."""
        return not self.holds_another and (self.directory / INDEX_NAME).exists()

    def conflict(self) -> Conflict:
        """What is raised for a directory that holds another checkpoint."""
        return Conflict(
            f"{self.directory} holds a checkpoint of another input, or made with other options",
            where=str(self.directory),
            remedy="choose an empty directory, or remove the checkpoint first",
        )

    def adopt(self) -> None:
        """Remember the published checkpoint as made from this input, which turned out the same."""
        journal = self.directory / JOURNAL
        lines = journal.read_bytes().splitlines() if journal.exists() else [b""]
        with _disk_faults(journal):
            write_published(journal, b"\n".join([self._input_id.encode(), *lines[1:], b""]))
        self.holds_another = False

    def finished(self, name: str) -> FileRecord | None:
        """The record of a file that an earlier run finished, if the file still stands there."""
        record = self._finished.get(name)
        path = self.directory / name
        if record and path.is_file() and path.stat().st_size == record.num_bytes:
            return record
        return None

    @contextmanager
    def file(self, name: str, *, chunk_bytes: int = 0) -> Iterator[HashingFile]:
        """A new file to write front to back; it is published and remembered at the block's end.

        Raises :class:`OutOfMemory` for a full disk, :class:`StorageFailed` for one that fails.
        """
        self._check_own()
        path = self.directory / name
        with _disk_faults(path):
            with published(path) as raw:
                file = HashingFile(raw, chunk_bytes, self._hashing)
                yield file
            record = file.record(name)
            append_durably(self.directory / JOURNAL, canonical(asdict(record)) + b"\n")
        self._finished[name] = record

    def publish(self, manifest: Manifest, key: PrivateKey | None = None) -> None:
        """Write signature and index: from now on this is a checkpoint."""
        self._check_own()
        data = encode(manifest)
        wanted = {file.name for file in manifest.files} | manifest.extras.keys()
        for path in sorted(self.directory.iterdir()):
            if not path.name.startswith(".") and path.name not in {*wanted, SIGNATURE_NAME}:
                raise Conflict(
                    f"{path} belongs to no part of this checkpoint",
                    where=str(path),
                    remedy="remove it, or choose an empty directory",
                )
        with _disk_faults(self.directory / INDEX_NAME):
            if key is not None:
                write_published(self.directory / SIGNATURE_NAME, key.sign(data))
            else:
                (self.directory / SIGNATURE_NAME).unlink(missing_ok=True)
            write_published(self.directory / INDEX_NAME, data)

    def _check_own(self) -> None:
        if self.holds_another:
            raise self.conflict()

    def _resume(self) -> None:
        journal = self.directory / JOURNAL
        lines = journal.read_bytes().splitlines() if journal.exists() else []
        same = bool(lines) and lines[0] == self._input_id.encode()
        self.holds_another = not same and self.is_published
        if self.holds_another:
            return
        remove_partials(self.directory)
        records = list(_records(lines[1:]))
        if same and self.is_published:
            return
        if same:
            self._finished = {record.name: record for record in records}
        else:
            for record in records:
                (self.directory / record.name).unlink(missing_ok=True)
        # Written anew: a last line that was torn by a crash would swallow the next one.
        kept = [canonical(asdict(record)) for record in self._finished.values()]
        with _disk_faults(journal):
            write_published(journal, b"\n".join([self._input_id.encode(), *kept, b""]))


def _records(lines: list[bytes]) -> Iterator[FileRecord]:
    for line in lines:
        try:
            record = msgspec.json.decode(line, type=FileRecord)
        except msgspec.MsgspecError:  # the line that was being written when the power went
            return
        if FLAT_NAME.fullmatch(record.name):
            yield record


@contextmanager
def _disk_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _as_fault(error, path) from error


def _as_fault(error: OSError, path: Path) -> LiteLLMError:
    where: dict[str, Any] = {"where": str(path)}
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfMemory(
            f"{path}: no room left on the disk", **where, remedy="free some and run it again"
        )
    return StorageFailed(
        f"{path}: can't be written: {error.strerror}", **where, remedy="check the disk"
    )
