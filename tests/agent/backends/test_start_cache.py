"""What engines compiled is kept within a bound, and found again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lite_llm.backends.start_cache import VARIABLES, StartCache

KERNEL = """
from numba import njit
@njit(cache=True)
def double(x):
    return x + x
assert double(21) == 42
print(double.stats.cache_hits and "found" or "compiled")
"""


def entry(directory: Path, name: str, *, used_at: int, size: int = 10) -> Path:
    folder = directory / name
    folder.mkdir(parents=True)
    for file in ("code", "index"):
        (folder / file).write_bytes(bytes(size // 2))
        os.utime(folder / file, (used_at, used_at))
    return folder


def test_the_longest_unused_goes_first_and_whole(tmp_path: Path) -> None:
    kept = entry(tmp_path, "triton/b", used_at=300)
    gone = entry(tmp_path, "triton/a", used_at=100)
    also_kept = entry(tmp_path, "vllm/x/y", used_at=200)
    assert StartCache(tmp_path, max_bytes=20).trim() == 20
    assert (kept.exists(), gone.exists(), also_kept.exists()) == (True, False, True)
    assert StartCache(tmp_path, max_bytes=19).trim() == 10
    assert (kept.exists(), also_kept.exists()) == (True, False)


def test_a_folder_with_folders_keeps_those(tmp_path: Path) -> None:
    entry(tmp_path, "vllm", used_at=100)
    inner = entry(tmp_path, "vllm/inner", used_at=200)
    assert StartCache(tmp_path, max_bytes=10).trim() == 10
    assert [path.name for path in inner.parent.iterdir()] == ["inner"]


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = entry(tmp_path, "outside", used_at=100)
    cache = tmp_path / "cache" / "triton"
    cache.mkdir(parents=True)
    (cache / "link").symlink_to(outside / "code")
    (cache / "folder").symlink_to(outside)
    StartCache(tmp_path / "cache", max_bytes=0).trim()
    assert sorted(path.name for path in outside.iterdir()) == ["code", "index"]
    assert not (cache / "link").is_symlink()


@pytest.mark.parametrize("limit", range(0, 101, 7))
def test_what_is_left_fits_and_is_the_newest(tmp_path: Path, limit: int) -> None:
    sizes = [8, 30, 2, 20, 0, 16]
    folders = [
        entry(tmp_path, str(number), used_at=100 + number, size=size)
        for number, size in enumerate(sizes)
    ]
    left = StartCache(tmp_path, max_bytes=limit).trim()
    assert left <= limit
    kept = [folder.exists() for folder in folders]
    assert kept == sorted(kept)
    assert left == sum(size for size, is_kept in zip(sizes, kept, strict=True) if is_kept)
    if False in kept:
        last_gone = len(kept) - 1 - kept[::-1].index(False)
        assert left + sizes[last_gone] > limit


def test_only_we_can_write_there_and_every_engine_has_its_own(tmp_path: Path) -> None:
    cache = StartCache(tmp_path / "cache")
    environment = cache.environment()
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
    assert len(set(environment.values())) == len(VARIABLES)
    cache.clear()
    assert not (tmp_path / "cache").exists()
    assert cache.trim() == 0


def test_a_second_process_finds_what_the_first_compiled(tmp_path: Path) -> None:
    program = tmp_path / "kernel.py"
    program.write_text(KERNEL)
    cache = StartCache(tmp_path / "cache")

    def run() -> str:
        environment = {**os.environ, **cache.environment()}
        command = [sys.executable, str(program)]
        return subprocess.check_output(command, env=environment, text=True).strip()

    assert [run(), run()] == ["compiled", "found"]
    assert cache.trim() > 0
