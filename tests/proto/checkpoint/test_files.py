"""Reading: all the bytes or a typed error, however little the system gives at once."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lite_llm.checkpoint.files import open_plain, read_into, read_small
from lite_llm.contracts.errors import Corrupt


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "f").write_bytes(bytes(range(100)))
    descriptor = open_plain(tmp_path / "f")
    yield descriptor
    os.close(descriptor)


def test_short_reads_are_continued(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: real(fd, [buffers[0][:7]], at))
    buffer = bytearray(60)
    read_into(descriptor, 10, memoryview(buffer), "f")
    assert buffer == bytes(range(10, 70))


def test_the_end_of_the_file_is_named(descriptor: int) -> None:
    with pytest.raises(Corrupt, match="f: ends at 100, 20 bytes too soon"):
        read_into(descriptor, 90, memoryview(bytearray(30)), "f")


def test_a_failing_disk_is_named(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(Corrupt, match="f: can't be read at 5: Input/output error") as fault:
        read_into(descriptor, 5, memoryview(bytearray(1)), "f")
    assert isinstance(fault.value.__cause__, OSError)


def test_small_files_are_small(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert read_small(tmp_path / "f", max_bytes=5) == b"12345"
    with pytest.raises(Corrupt, match="5 bytes, more than 4"):
        read_small(tmp_path / "f", max_bytes=4)
    with pytest.raises(Corrupt, match="No such file"):
        read_small(tmp_path / "g", max_bytes=4)


def test_a_small_file_comes_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "f", os.pread
    path.write_bytes(b"0123456789")
    monkeypatch.setattr(os, "pread", lambda fd, count, at: real(fd, min(count, 3), at))
    assert read_small(path, max_bytes=10) == b"0123456789"
    monkeypatch.setattr(os, "pread", lambda fd, count, at: real(fd, min(count, 3), at)[: 6 - at])
    with pytest.raises(Corrupt, match="ends at 6, 4 bytes too soon"):
        read_small(path, max_bytes=10)

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(Corrupt, match="can't be read at 0: Input/output error"):
        read_small(path, max_bytes=10)
