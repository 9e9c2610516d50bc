"""Onto a disk that is full, from a source that moves, after a fetch that was cut."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from lite_llm.contracts.errors import Corrupt, OutOfMemory, StorageFailed
from lite_llm.contracts.manifest import FileRecord
from lite_llm.registry import fetching
from lite_llm.registry.fetching import fetch
from lite_llm.stores import Listing

NAME = "model.safetensors"
CONTENT = b"abcdefgh"


class Memory:
    """A source of one file without a digest."""

    uri = "memory://"

    def __init__(self) -> None:
        self.version = "1"
        self.asked: list[int] = []

    async def identity(self, name: str) -> str:
        return self.version

    async def read(self, name: str, offset: int, target: memoryview) -> None:
        self.asked.append(offset)
        target[:] = CONTENT[offset : offset + len(target)]

    async def close(self) -> None:
        pass


def listing(num_bytes: int = len(CONTENT)) -> Listing:
    record = FileRecord(NAME, num_bytes)
    return Listing(uri=Memory.uri, digest="0", files=(record,), identities={NAME: "1"})


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def bring(source: Memory, directory: Path, files: Listing | None = None) -> None:
    await fetch(source, files or listing(), directory, lambda _: None)


async def test_a_file_that_changes_while_it_is_fetched_is_not_kept(tmp_path: Path) -> None:
    source = Memory()
    source.version = "2"
    with pytest.raises(Corrupt, match="changed meanwhile"):
        await bring(source, tmp_path)
    assert names(tmp_path) == []


async def test_what_a_disk_can_not_hold_is_not_begun(tmp_path: Path) -> None:
    source = Memory()
    with pytest.raises(OutOfMemory, match="no room"):
        await bring(source, tmp_path, listing(1 << 60))
    assert source.asked == []


async def test_a_scratch_that_is_no_directory_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed, match="can't be written"):
        await bring(Memory(), tmp_path / "file" / "x")


async def test_a_late_write_of_a_cancelled_fetch_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PIECE_BYTES", 4)
    write = fetching._write
    begun, gate, written = threading.Event(), threading.Event(), threading.Event()

    def held_up(partial: Path, offset: int, piece: bytearray) -> None:
        begun.set()
        gate.wait()
        write(partial, offset, piece)
        written.set()

    monkeypatch.setattr(fetching, "_write", held_up)
    cut = asyncio.create_task(bring(Memory(), tmp_path))
    await asyncio.to_thread(begun.wait)
    cut.cancel()
    await asyncio.wait([cut])
    monkeypatch.setattr(fetching, "_write", write)

    class Meanwhile(Memory):
        async def read(self, name: str, offset: int, target: memoryview) -> None:
            await super().read(name, offset, target)
            gate.set()
            await asyncio.to_thread(written.wait)

    await bring(Meanwhile(), tmp_path)
    assert (tmp_path / NAME).read_bytes() == CONTENT


async def test_a_file_that_was_half_there_is_completed(tmp_path: Path) -> None:
    class Cut(Memory):
        async def read(self, name: str, offset: int, target: memoryview) -> None:
            if offset:
                raise StorageFailed("away")
            await super().read(name, offset, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetching, "PIECE_BYTES", 4)
        with pytest.raises(StorageFailed, match="away"):
            await bring(Cut(), tmp_path)
    source = Memory()
    await bring(source, tmp_path)
    assert source.asked == [4]
    assert (tmp_path / NAME).read_bytes() == CONTENT
