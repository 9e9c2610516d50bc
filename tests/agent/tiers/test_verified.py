"""Notes of verified chunks on a disk that does not take them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lite_llm.contracts.manifest import FileRecord
from lite_llm.tiers.verified import VerifiedChunks


def test_a_note_that_can_not_be_kept_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lite_llm.tiers.verified.SETTLED_NS", -(10**12))
    notes, file = tmp_path / "notes", tmp_path / "weights.bin"
    file.write_bytes(b"weights")
    known, record = VerifiedChunks(notes), FileRecord(file.name, 7, chunk_bytes=4096)
    with file.open("rb") as opened:
        marks = known.of(opened.fileno(), record)
    marks.add(range(1))
    known.save()
    (note,) = notes.iterdir()
    note.unlink()
    note.mkdir()  # a file can't take its place
    marks.add(range(1, 2))
    known.save()
    assert list(notes.iterdir()) == [note]
