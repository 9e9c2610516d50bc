"""Machine code kept between processes: lost or spoilt files cost time, and never the program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lite_llm.kernels.cache import _Files


def files(directory: Path, stamp: str = "new") -> Any:
    made: Any = _Files
    return made(str(directory), "kernel", stamp)


def test_what_was_saved_is_found(tmp_path: Path) -> None:
    files(tmp_path).save("signature", "code")
    assert files(tmp_path).load("signature") == "code"
    assert files(tmp_path).load("another") is None
    assert files(tmp_path, "newer").load("signature") is None


@pytest.mark.parametrize("left", [b"", b"\x80", b"\0" * 100])
@pytest.mark.parametrize("name", ["kernel.nbi", "kernel.1.nbc"])
def test_a_broken_file_is_replaced(tmp_path: Path, name: str, left: bytes) -> None:
    files(tmp_path).save("signature", "code")
    (tmp_path / name).write_bytes(left)
    assert files(tmp_path).load("signature") is None
    files(tmp_path).save("signature", "code")
    assert files(tmp_path).load("signature") == "code"


def test_an_index_whose_code_was_never_written_finds_no_older_code(tmp_path: Path) -> None:
    files(tmp_path, "old").save("signature", "older code")
    files(tmp_path)._save_index({"signature": "kernel.1.nbc"})
    assert files(tmp_path).load("signature") is None


def test_a_number_given_twice_finds_no_other_kernels_code(tmp_path: Path) -> None:
    files(tmp_path).save("one", "code")
    files(tmp_path)._save_index({"two": "kernel.1.nbc"})
    assert files(tmp_path).load("two") is None


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    files(tmp_path / "gone").save("signature", "code")
    assert files(tmp_path / "gone").load("signature") is None


PROGRAM = """
import resource, torch
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
from lite_llm.kernels import rms_norm
print(rms_norm(torch.ones(1, 32), None, 0.0).sum().item())
"""


def test_kernels_run_without_room_for_files(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "32.0\n"
    assert not list(tmp_path.rglob("*.nbc"))
