"""Snapshots that replace each other whole: a reader sees the old one or the new, never a mixture.

A root holds ``snapshot-N`` directories, each a checkpoint, and a file ``CURRENT`` that names one
(SPEC-030). Phase one writes the next directory under a name that nobody reads and renames it; phase
two replaces ``CURRENT``. Whatever a writer that died left behind, the next one clears away.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from lite_llm.checkpoint.durable import sync_directory, sync_files, write_published
from lite_llm.checkpoint.files import read_small
from lite_llm.checkpoint.lease import writer_lease
from lite_llm.checkpoint.reader import Reader, open_checkpoint, read_index
from lite_llm.checkpoint.strict_json import corrupt
from lite_llm.contracts.errors import Corrupt, ModelNotFound
from lite_llm.trust import ACCEPT_UNSIGNED, SignaturePolicy

CURRENT: Final = "CURRENT"
KEPT_SNAPSHOTS: Final = 2  # the current one, and the one that a reader may just be opening

_NAME: Final = re.compile(r"snapshot-([0-9]{12})")
_PREPARED: Final = ".prepared-"


@contextmanager
def new_snapshot(root: Path, *, keep: int = KEPT_SNAPSHOTS) -> Iterator[Path]:
    """An empty directory to write a checkpoint into; at the block's end it is the current one.

    An error in the block leaves the old snapshot current. Raises :class:`Conflict` while another
    writer is at it, and :class:`Corrupt` if what was written can't be opened.
    """
    root.mkdir(parents=True, exist_ok=True)
    with writer_lease(root):
        version = 1 + max((_version(path) for path in root.iterdir()), default=0)
        _clear(root, keep)
        prepared = root / f"{_PREPARED}{version:012}"
        prepared.mkdir()
        try:
            yield prepared
            read_index(prepared)
            sync_files(prepared)
        except BaseException:
            shutil.rmtree(prepared, ignore_errors=True)
            raise
        final = root / f"snapshot-{version:012}"
        prepared.replace(final)
        sync_directory(root)
        write_published(root / CURRENT, final.name.encode() + b"\n")
        _clear(root, keep)


def open_snapshot(root: Path, *, policy: SignaturePolicy = ACCEPT_UNSIGNED) -> Reader:
    """A reader of the current snapshot, which stays readable when it is replaced.

    Raises :class:`ModelNotFound` where none was ever committed.
    """
    while True:
        path = current_snapshot(root)
        with ExitStack() as opened:
            try:
                reader = opened.enter_context(open_checkpoint(path, policy=policy))
                reader.open_all()
            except Corrupt:
                if current_snapshot(root) == path:
                    raise
                continue  # replaced and removed while it was being opened
            opened.pop_all()
            return reader


def current_snapshot(root: Path) -> Path:
    """The directory of the snapshot that was committed last."""
    path = root / CURRENT
    if not path.exists():
        raise ModelNotFound(
            f"{root} holds no snapshot", where=str(root), remedy="wait for the first commit"
        )
    name = read_small(path, max_bytes=64).decode("ascii", errors="replace").removesuffix("\n")
    if not _NAME.fullmatch(name):
        raise corrupt(f"{name!r} is no snapshot", str(path))
    return root / name


def _version(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else 0


def _clear(root: Path, keep: int) -> None:
    """Remove what was never committed, and the oldest of what was."""
    current = _version(current_snapshot(root)) if (root / CURRENT).exists() else 0
    committed = sorted(
        version for path in root.iterdir() if 0 < (version := _version(path)) <= current
    )
    kept = set(committed[-keep:])
    for path in root.iterdir():
        version = _version(path)
        if path.name.startswith(_PREPARED) or (version and version not in kept):
            shutil.rmtree(path, ignore_errors=True)
