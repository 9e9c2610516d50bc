"""A reader sees the old snapshot or the new one, wherever the writer died."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lite_llm.checkpoint import Finding, convert, new_snapshot, open_snapshot, verify
from lite_llm.checkpoint.snapshot import CURRENT, current_snapshot
from lite_llm.contracts.errors import Conflict, Corrupt, ModelNotFound

NAMES = ("model.layers.0.w", "model.norm.w")


def weights(directory: Path, value: int) -> Path:
    """A model whose every number is ``value``, in several files once it is converted."""
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    save_file(
        {name: np.full(2000, value, np.int64) for name in NAMES}, directory / "model.safetensors"
    )
    return directory


def commit(root: Path, source: Path) -> None:
    with new_snapshot(root) as directory:
        for _ in convert(source, directory):
            pass


def values(root: Path) -> set[int]:
    with open_snapshot(root) as reader:
        return {int(number) for name in NAMES for number in np.unique(reader.tensor(name))}


def test_versions_count_up_and_old_ones_go(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with pytest.raises(ModelNotFound):
        open_snapshot(root)
    for value in range(1, 5):
        commit(root, weights(tmp_path / str(value), value))
        assert values(root) == {value}
        assert current_snapshot(root).name == f"snapshot-{value:012}"
    kept = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    assert kept == [CURRENT, "snapshot-000000000003", "snapshot-000000000004"]


def test_an_open_reader_keeps_its_snapshot(tmp_path: Path) -> None:
    root = tmp_path / "root"
    commit(root, weights(tmp_path / "0", 0))
    with open_snapshot(root) as reader:
        for value in range(1, 4):
            commit(root, weights(tmp_path / str(value), value))
        assert not reader.directory.exists()
        assert {int(number) for name in NAMES for number in reader.tensor(name)} == {0}


def test_an_error_or_an_unfinished_checkpoint_leaves_the_old_one(tmp_path: Path) -> None:
    root = tmp_path / "root"
    commit(root, weights(tmp_path / "1", 1))
    with pytest.raises(RuntimeError, match="changed my mind"), new_snapshot(root):
        raise RuntimeError("changed my mind")
    with pytest.raises(Corrupt, match=r"checkpoint\.idx"), new_snapshot(root) as directory:
        (directory / "something.bin").write_bytes(b"")
    assert values(root) == {1}
    assert len(list(root.glob("[!.]*"))) == 2
    commit(root, weights(tmp_path / "2", 2))
    assert values(root) == {2}


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with (
        pytest.raises(Conflict, match="another process"),
        new_snapshot(root),
        new_snapshot(root),
    ):
        raise AssertionError("two writers")


def test_a_pointer_to_elsewhere_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    commit(root, weights(tmp_path / "1", 1))
    for text in ("../1", "snapshot-1", "", "\xff"):
        (root / CURRENT).write_text(text)
        with pytest.raises(Corrupt, match=CURRENT):
            open_snapshot(root)


CRASH = """
import os, sys
from pathlib import Path
from lite_llm.checkpoint import convert, new_snapshot
from lite_llm.checkpoint.snapshot import current_snapshot

root, source = Path(sys.argv[1]), Path(sys.argv[2])
before = current_snapshot(root).name

def counted(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os._exit(9)  # dies before it is done
        result = function(*arguments, **options)
        left -= 1
        if left == 0:
            os._exit(9)  # dies right after
        return result
    return call

os.fsync, Path.replace = counted(os.fsync), counted(Path.replace)
os.rmdir, os.unlink = counted(os.rmdir), counted(os.unlink)
for point in range(1, 1000):
    child = os.fork()
    if not child:
        left = point
        with new_snapshot(root) as directory:
            for _ in convert(source, directory):
                pass
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(point, status, current_snapshot(root).name, flush=True)
    sys.stdin.readline()
    if status == 0:
        break
"""


def test_death_at_every_flush_and_rename_leaves_old_or_new(tmp_path: Path) -> None:
    """After each death the reader finds a whole snapshot, and never an older one than before."""
    root = tmp_path / "root"
    commit(root, weights(tmp_path / "1", 1))
    command = [sys.executable, "-c", CRASH, str(root), str(weights(tmp_path / "2", 2))]
    seen: list[tuple[str, set[int]]] = []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin
        assert child.stdout
        for line in child.stdout:
            _, status, name = line.split()
            found = values(root)
            assert found in ({1}, {2})
            assert not [f for f in verify(root / name) if isinstance(f, Finding)]
            seen.append((name, found))
            child.stdin.write("\n")
            child.stdin.flush()
    assert child.returncode == 0
    assert status == "0"
    assert len(seen) > 30
    names = [name for name, _ in seen]
    assert names == sorted(names)
    assert seen[0][1] == {1}
    assert [found for _, found in seen] == sorted((found for _, found in seen), key=max)


def test_every_file_is_flushed_before_its_name_and_the_pointer_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a crash of the whole machine may take is what was not flushed: so the order counts."""
    root = tmp_path / "root"
    commit(root, weights(tmp_path / "1", 1))
    source = weights(tmp_path / "2", 2)
    trace: list[tuple[str, str]] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        trace.append(("sync", Path(f"/proc/self/fd/{descriptor}").resolve().name))
        real_sync(descriptor)

    def replace(path: Path, target: Path) -> Path:
        trace.append(("rename", path.name))
        trace.append(("renamed", Path(target).name))
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    commit(root, source)
    for number, (what, name) in enumerate(trace):
        if what == "rename" and name.endswith(".partial"):
            assert trace[number - 1] == ("sync", name)
            assert trace[number + 2][0] == "sync"  # of the folder
    renamed = [name for what, name in trace if what == "renamed"]
    assert renamed[-3:] == ["checkpoint.idx", "snapshot-000000000002", CURRENT]
    assert trace[-1] == ("sync", "root")


def test_readers_during_many_commits_see_no_mixture(tmp_path: Path) -> None:
    root = tmp_path / "root"
    sources = [weights(tmp_path / str(value), value) for value in range(5)]
    commit(root, sources[0])
    seen: list[set[int]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(values(root))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for source in sources[1:]:
            commit(root, source)
    finally:
        done.set()
        reader.join()
    assert seen
    assert all(len(found) == 1 for found in seen)
    assert [max(found) for found in seen] == sorted(max(found) for found in seen)
