"""Files served from the page cache where they lie, whatever happens to them meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lite_llm.contracts.errors import Corrupt, Internal
from lite_llm.tiers import (
    DiskReader,
    HostTier,
    Loader,
    LocalSource,
    Phase,
    ReadFailed,
    StillLeased,
)
from lite_llm.tiers.mapped_file import MappedFile, is_better_mapped
from lite_llm.tiers.page_cache import is_cached
from lite_llm.tiers.verified import SETTLED_NS, Stamp, VerifiedChunks

CHUNK = 64 << 10


@pytest.fixture
def directory(checkpoint: Any, tmp_path: Path) -> Path:
    return Path(checkpoint.write(tmp_path / "model"))


@pytest.fixture
def mapping(host: HostTier, reader: DiskReader) -> Loader:
    return Loader(host, reader)


async def assert_right(load: Any, checkpoint: Any) -> None:
    async for layer in load.layers():
        for name, view in layer.tensors.items():
            assert bytes(view) == checkpoint.bytes_of(checkpoint.manifest.tensor_by_name[name].span)


@pytest.mark.parametrize(
    ("offset", "num_bytes", "cached", "file_bytes", "better"),
    [
        (0, 100, 4096, 100, True),
        (4096, 1 << 20, 1 << 20, 2 << 20, True),
        (0, 100 << 20, 90 << 20, 100 << 20, True),
        (0, 100 << 20, 89 << 20, 100 << 20, False),
        (0, 1 << 20, 0, 1 << 20, False),
        (100, 4096, 8192, 1 << 20, False),
        (0, 4097, 8192, 4096, False),
        (0, 0, 0, 0, False),
    ],
    ids=["small", "all there", "most", "too little", "cold", "unaligned", "too short", "empty"],
)
def test_mapping_is_better_where_most_is_in_the_page_cache(
    offset: int, num_bytes: int, cached: int, file_bytes: int, better: bool
) -> None:
    assert is_better_mapped(offset, num_bytes, cached=cached, file_bytes=file_bytes) is better


async def test_a_cached_file_is_served_in_place_and_takes_nothing_of_the_budget(
    mapping: Loader, host: HostTier, checkpoint: Any, directory: Path
) -> None:
    async with mapping.load(checkpoint.manifest, [LocalSource(directory)]) as load:
        await assert_right(load, checkpoint)
        await load.done()
        assert host.arena.used_bytes == 0
        host.check()
        layer = await load.head()
        array = np.frombuffer(layer.tensors["lm_head.weight"], np.uint8)
        assert not array.flags.owndata
        assert not array.flags.writeable
        with pytest.raises(StillLeased, match="arrays over"):
            layer.release()
        del array
        states = [state async for state in load.progress()]
        assert states[-1].phases[Phase.VERIFY].num_bytes == checkpoint.manifest.num_bytes
    assert not host._runs


async def test_a_cold_file_is_not_mapped(
    mapping: Loader, host: HostTier, checkpoint: Any, directory: Path
) -> None:
    for name in checkpoint.content:
        with (directory / name).open("r+b") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert not is_cached(file.fileno(), 0, CHUNK)
    async with mapping.load(checkpoint.manifest, [LocalSource(directory)]) as load:
        await assert_right(load, checkpoint)
        assert host.arena.used_bytes > 0


def write_into(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(CHUNK)
        file.write(b"x" * CHUNK)


def open_files() -> list[str]:
    return sorted(str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink())


CHANGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: os.truncate(path, 0),
    "shortened": lambda path: os.truncate(path, CHUNK + 1),
    "overwritten": lambda path: path.write_bytes(b"other"),
    "written into": write_into,
    "removed": lambda path: path.unlink(),
    "replaced": lambda path: Path(path.parent / "dense.bin").rename(path),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_leased_bytes_stay_as_they_were_whatever_happens_to_the_file(
    mapping: Loader, checkpoint: Any, directory: Path, change: str
) -> None:
    async with mapping.load(checkpoint.manifest, [LocalSource(directory)]) as load:
        await load.done()
        await asyncio.to_thread(CHANGES[change], directory / "experts.bin")
        for number in range(3):
            layer = await load.layer(number)
            for key, parts in layer.experts.items():
                record = checkpoint.manifest.expert_by_key[key]
                assert [bytes(p) for p in parts] == [
                    checkpoint.bytes_of(part.span) for part in record.parts
                ]
    assert not [path for path in open_files() if str(directory) in path]


async def test_a_change_before_the_check_is_seen_by_it_or_kept_out(
    host: HostTier, checkpoint: Any, directory: Path
) -> None:
    reader = DiskReader(threads=1)
    path = directory / "dense.bin"
    async with Loader(host, reader).load(checkpoint.manifest, [LocalSource(directory)]) as load:
        await asyncio.to_thread(os.truncate, path, 0)
        await assert_right(load, checkpoint)
    reader.close()


async def test_nothing_holds_writers_back_once_the_load_is_closed(
    mapping: Loader, checkpoint: Any, directory: Path
) -> None:
    async with mapping.load(checkpoint.manifest, [LocalSource(directory)]) as load:
        await load.done()
    os.close(os.open(directory / "dense.bin", os.O_RDWR | os.O_NONBLOCK))


async def test_a_file_that_somebody_writes_to_is_copied_instead(
    mapping: Loader, host: HostTier, checkpoint: Any, directory: Path
) -> None:
    with (directory / "dense.bin").open("r+b"), (directory / "experts.bin").open("r+b"):
        async with mapping.load(checkpoint.manifest, [LocalSource(directory)]) as load:
            await assert_right(load, checkpoint)
            assert host.arena.used_bytes > 0


async def test_a_file_shorter_than_its_manifest_is_an_error(
    mapping: Loader, checkpoint: Any, directory: Path
) -> None:
    os.truncate(directory / "dense.bin", 3 * CHUNK)
    async with mapping.load(checkpoint.manifest, [LocalSource(directory)]) as load:
        with pytest.raises(ReadFailed, match=r"dense\.bin ends at 196608"):
            await load.done()


async def test_a_bad_chunk_is_looked_at_twice_and_named(
    mapping: Loader, checkpoint: Any, directory: Path
) -> None:
    damaged = bytearray(checkpoint.content["dense.bin"])
    damaged[5 * CHUNK + 17] ^= 1
    (directory / "dense.bin").write_bytes(damaged)
    async with mapping.load(checkpoint.manifest, [LocalSource(directory)]) as load:
        with pytest.raises(Corrupt, match=r"chunk 5 of dense\.bin \(offset 327680\)"):
            await load.done()


async def test_bad_chunks_come_from_a_mirror_and_the_file_is_left_as_it_is(
    mapping: Loader, host: HostTier, checkpoint: Any, directory: Path, tmp_path: Path
) -> None:
    damaged = bytearray(checkpoint.content["dense.bin"])
    for chunk in (0, 5, 12):
        damaged[chunk * CHUNK + 17] ^= 1
    (directory / "dense.bin").write_bytes(damaged)
    mirror = LocalSource(checkpoint.write(tmp_path / "mirror"))
    async with mapping.load(checkpoint.manifest, [LocalSource(directory), mirror]) as load:
        await assert_right(load, checkpoint)
        assert host.arena.used_bytes == 0
    assert (directory / "dense.bin").read_bytes() == damaged


def test_parts_can_only_be_read_while_they_are_held(directory: Path, checkpoint: Any) -> None:
    record = checkpoint.manifest.file_by_name["dense.bin"]
    file = MappedFile(directory / "dense.bin", VerifiedChunks(), record)
    block = file.block(CHUNK, CHUNK, owner="test")
    with block.read() as lease:
        assert len(lease.view) == CHUNK
        with pytest.raises(StillLeased):
            block.free()
    with pytest.raises(Internal, match="before this use"):
        _ = lease.view
    block.arena.close()
    assert file.descriptor == -1


async def verified_bytes(loader: Loader, checkpoint: Any, directory: Path) -> int:
    async with loader.load(checkpoint.manifest, [LocalSource(directory)]) as load:
        await load.done()
        states = [state async for state in load.progress()]
    return states[-1].phases[Phase.VERIFY].num_bytes


async def test_what_was_verified_in_place_is_not_verified_again_until_it_changes(
    mapping: Loader, checkpoint: Any, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lite_llm.tiers.verified.SETTLED_NS", -(10**12))
    total = checkpoint.manifest.num_bytes
    assert await verified_bytes(mapping, checkpoint, directory) == total
    assert await verified_bytes(mapping, checkpoint, directory) == 0
    damaged = bytearray(checkpoint.content["dense.bin"])
    damaged[17] ^= 1
    (directory / "dense.bin").write_bytes(damaged)
    with pytest.raises(Corrupt, match=r"chunk 0 of dense\.bin"):
        await verified_bytes(mapping, checkpoint, directory)
    (directory / "dense.bin").write_bytes(checkpoint.content["dense.bin"])
    assert await verified_bytes(mapping, checkpoint, directory) == len(
        checkpoint.content["dense.bin"]
    )


async def test_what_another_process_verified_needs_no_second_look(
    host: HostTier,
    reader: DiskReader,
    checkpoint: Any,
    directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lite_llm.tiers.verified.SETTLED_NS", -(10**12))
    total, notes = checkpoint.manifest.num_bytes, tmp_path / "notes"

    async def as_another_process(notes: Path) -> int:
        return await verified_bytes(Loader(host, reader, notes=notes), checkpoint, directory)

    assert await as_another_process(notes) == total
    assert await as_another_process(notes) == 0
    assert await as_another_process(tmp_path / "empty") == total
    os.utime(directory / "dense.bin")  # perhaps written to, perhaps not: looked at again
    assert await as_another_process(notes) == len(checkpoint.content["dense.bin"])
    monkeypatch.setattr("lite_llm.tiers.verified._boot", lambda: "another boot")
    assert await as_another_process(notes) == total
    for note in notes.iterdir():
        note.write_bytes(b"[[0,")
    assert await as_another_process(notes) == total


async def test_notes_hold_for_the_checksums_that_were_seen_right(
    host: HostTier,
    reader: DiskReader,
    checkpoint: Any,
    directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lite_llm.tiers.verified.SETTLED_NS", -(10**12))
    loader = Loader(host, reader, notes=tmp_path / "notes")
    await verified_bytes(loader, checkpoint, directory)
    others = tuple(
        replace(file, chunk_checksums=tuple(one ^ 1 for one in file.chunk_checksums))
        for file in checkpoint.manifest.files
    )
    checkpoint.manifest = replace(checkpoint.manifest, files=others)
    with pytest.raises(Corrupt):
        await verified_bytes(loader, checkpoint, directory)


async def test_notes_that_can_not_be_kept_cost_nothing_else(
    host: HostTier, reader: DiskReader, checkpoint: Any, directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes").write_text("in the way")
    loader = Loader(host, reader, notes=tmp_path / "notes")
    assert await verified_bytes(loader, checkpoint, directory) == checkpoint.manifest.num_bytes


async def test_a_file_that_was_just_written_is_verified_every_time(
    mapping: Loader, checkpoint: Any, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lite_llm.tiers.verified.SETTLED_NS", 10**12)
    total = checkpoint.manifest.num_bytes
    assert await verified_bytes(mapping, checkpoint, directory) == total
    assert await verified_bytes(mapping, checkpoint, directory) == total


def test_a_stamp_is_settled_once_a_later_write_would_show() -> None:
    stamp = Stamp(1, 2, 3, mtime=100, ctime=200)
    assert not stamp.is_settled(200 + SETTLED_NS)
    assert stamp.is_settled(201 + SETTLED_NS)


DYING = """
import mmap, os, sys
file = open(sys.argv[1], "r+b")
view = mmap.mmap(file.fileno(), 0)
os.truncate(sys.argv[1], 0)
view[0]
"""


def test_without_a_guard_a_shortened_mapping_would_kill(directory: Path) -> None:
    """Why all this is needed; if this ever passes, :mod:`file_guard` can go."""
    done = subprocess.run([sys.executable, "-c", DYING, directory / "dense.bin"], check=False)
    assert done.returncode == -signal.SIGBUS
