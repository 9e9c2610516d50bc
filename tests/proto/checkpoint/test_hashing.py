"""Checksums do not depend on how the bytes came, and a file has the bytes that were hashed."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_llm.checkpoint.hashing import FLUSH_BYTES, Checksums, HashingFile


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(max_size=50), max_size=12), st.integers(0, 20))
def test_pieces_of_any_size_give_the_same_checksums(pieces: list[bytes], chunk_bytes: int) -> None:
    checksums = Checksums(chunk_bytes)
    for piece in pieces:
        checksums.update(piece)
    whole = b"".join(pieces)
    record = checksums.record("f")
    assert record.sha256 == hashlib.sha256(whole).hexdigest()
    assert (record.num_bytes, record.chunk_bytes) == (len(whole), chunk_bytes)
    starts = range(0, len(whole), chunk_bytes) if chunk_bytes else ()
    assert list(record.chunk_checksums) == [
        xxhash.xxh3_64_intdigest(whole[start : start + chunk_bytes]) for start in starts
    ]


def test_a_file_is_padded_with_zeros_and_hashed_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "f"
    large = bytes(FLUSH_BYTES)
    with path.open("wb", buffering=0) as raw, ThreadPoolExecutor(1) as pool:
        file = HashingFile(raw, 4096, pool)
        file.write(b"abc")
        file.pad(200_000)
        file.write(large)
        file.write(b"end")
        record = file.record("f")
    data = path.read_bytes()
    assert data == b"abc".ljust(200_000, b"\0") + large + b"end"
    assert record.sha256 == hashlib.sha256(data).hexdigest()
    assert len(record.chunk_checksums) == -(-len(data) // 4096)
