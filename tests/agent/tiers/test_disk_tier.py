"""The disks: kept while the budget lasts, whole after any crash, one fetch for many loads."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lite_llm.contracts.errors import Conflict, InvalidSettings
from lite_llm.contracts.manifest import FileRecord
from lite_llm.contracts.tiers import Medium
from lite_llm.tiers import DiskBudget, DiskReader, DiskTier, HostTier, Loader

NVME, SATA = Medium.NVME, Medium.SATA
CHUNK = 64 << 10
Make = Callable[..., Any]


class Memory:
    """A distant source in this process, which counts what it gives."""

    uri = "memory://"

    def __init__(self, content: dict[str, bytes]) -> None:
        self.content = content
        self.given: list[tuple[str, int, int]] = []

    async def identity(self, name: str) -> str:
        return name

    async def read(self, name: str, offset: int, target: memoryview) -> None:
        await asyncio.sleep(0)
        self.given.append((name, offset, len(target)))
        target[:] = self.content[name][offset : offset + len(target)]

    async def close(self) -> None:
        pass


def tier(root: Path, **budgets: int) -> DiskTier:
    return DiskTier(
        {
            Medium[name]: DiskBudget(directory=root / name, num_bytes=num_bytes)
            for name, num_bytes in budgets.items()
        }
    )


def files_in(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def record_of(content: bytes) -> FileRecord:
    return FileRecord("f", len(content), sha256=hashlib.sha256(content).hexdigest())


async def store(disks: DiskTier, content: bytes) -> None:
    held = await disks.hold("", record_of(content))
    assert held is not None
    await disks.write(held, range(1), memoryview(content))
    await disks.let_go(held)


async def has(disks: DiskTier, content: bytes) -> Medium | None:
    medium = disks._residency.nearest(record_of(content).sha256)
    return None if medium is Medium.OBJECT_STORE else medium


async def test_a_whole_file_gets_its_name_and_a_part_does_not(
    tmp_path: Path, checkpoint: Any
) -> None:
    record = checkpoint.manifest.file_by_name["dense.bin"]
    content = memoryview(checkpoint.content["dense.bin"])
    async with tier(tmp_path, NVME=4 << 20) as disks:
        held = await disks.hold("", record)
        assert held is not None
        assert not held.has(range(1))
        last = -(-record.num_bytes // CHUNK)
        await disks.write(held, range(1, last), content[CHUNK:])
        assert [*files_in(tmp_path)] == [f"NVME/partial/{record.sha256}"]
        await disks.write(held, range(1), content[:CHUNK])
        assert held.is_complete
        await disks.let_go(held)
        final = f"NVME/objects/{record.sha256[:2]}/{record.sha256}"
        assert files_in(tmp_path) == {final: bytes(content)}
        assert disks.used_bytes(NVME) == record.num_bytes


async def test_old_files_move_to_the_slower_disk_and_then_leave(tmp_path: Path) -> None:
    one, two, three = (os.urandom(1000) for _ in range(3))
    async with tier(tmp_path, NVME=1500, SATA=1000) as disks:
        await store(disks, one)
        await store(disks, two)
        assert [await has(disks, c) for c in (one, two)] == [SATA, NVME]
        await store(disks, three)
        assert [await has(disks, c) for c in (one, two, three)] == [None, SATA, NVME]
        assert sorted(files_in(tmp_path).values()) == sorted([two, three])


async def test_what_is_in_use_stays_and_the_new_one_is_not_kept(tmp_path: Path) -> None:
    one, two = os.urandom(1000), os.urandom(1000)
    async with tier(tmp_path, NVME=1500) as disks:
        held = await disks.hold("", record_of(one))
        assert held is not None
        assert await disks.hold("", record_of(two)) is None
        await disks.let_go(held)
        assert await disks.hold("", record_of(os.urandom(2000))) is None


async def test_a_restart_finds_the_files_in_their_order_of_use(tmp_path: Path) -> None:
    old, young = os.urandom(1000), os.urandom(1000)
    async with tier(tmp_path, NVME=2000) as disks:
        await store(disks, young)
        await store(disks, old)
    name = record_of(old).sha256
    os.utime(tmp_path / "NVME" / "objects" / name[:2] / name, (1, 1))
    async with tier(tmp_path, NVME=2000) as disks:
        assert disks.used_bytes(NVME) == 2000
        await store(disks, os.urandom(500))
        assert [await has(disks, c) for c in (old, young)] == [None, NVME]
    async with tier(tmp_path, NVME=400) as disks:
        assert disks.used_bytes(NVME) == 0
        assert files_in(tmp_path) == {}


async def test_a_directory_has_one_owner(tmp_path: Path) -> None:
    async with tier(tmp_path, NVME=1000):
        with pytest.raises(Conflict, match="another process keeps its files"):
            async with tier(tmp_path, NVME=1000):
                pass
    async with tier(tmp_path, NVME=1000):
        pass
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidSettings, match="can't be used"):
        async with tier(tmp_path / "file", NVME=1000):
            pass


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_a_full_or_failing_disk_ends_the_keeping_and_not_the_load(
    tmp_path: Path, host: HostTier, reader: DiskReader, checkpoint: Any,
    monkeypatch: pytest.MonkeyPatch, code: int,
) -> None:  # fmt: skip
    real, count = os.pwrite, 0

    def failing(descriptor: int, data: memoryview, offset: int) -> int:
        nonlocal count
        count += 1
        if count > 2:
            raise OSError(code, os.strerror(code))
        return real(descriptor, data[: len(data) // 2], offset)

    monkeypatch.setattr(os, "pwrite", failing)
    source = Memory(checkpoint.content)
    async with tier(tmp_path, NVME=16 << 20) as disks:
        loader = Loader(host, reader, disks=disks)
        async with loader.load(checkpoint.manifest, [source]) as load:
            await load.done()
            head = await load.head()
            span = checkpoint.manifest.tensor_by_name["lm_head.weight"].span
            assert head.tensors["lm_head.weight"] == checkpoint.bytes_of(span)
        assert files_in(tmp_path) == {}
        assert disks.used_bytes(NVME) == 0
    host.clear()


async def test_two_loaders_racing_for_one_file_fetch_it_once(
    tmp_path: Path, host: HostTier, reader: DiskReader, checkpoint: Any
) -> None:
    source = Memory(checkpoint.content)
    async with tier(tmp_path, NVME=16 << 20) as disks:
        loader = Loader(host, reader, disks=disks)

        async def load() -> None:
            async with loader.load(checkpoint.manifest, [source]) as load:
                await load.done()

        await asyncio.gather(*(load() for _ in range(4)))
        assert sum(n for _, _, n in source.given) == checkpoint.manifest.num_bytes
        assert sorted(files_in(tmp_path).values()) == sorted(checkpoint.content.values())


async def test_a_copy_that_rots_on_disk_is_fetched_again_and_mended(
    tmp_path: Path, host: HostTier, reader: DiskReader, checkpoint: Any
) -> None:
    source = Memory(checkpoint.content)
    async with tier(tmp_path, NVME=16 << 20) as disks:
        loader = Loader(host, reader, disks=disks)
        async with loader.load(checkpoint.manifest, [source]) as load:
            await load.done()
        host.clear()
        digest = checkpoint.manifest.file_by_name["dense.bin"].sha256
        path = tmp_path / "NVME" / "objects" / digest[:2] / digest
        with path.open("r+b") as file:
            file.seek(3 * CHUNK)
            file.write(b"rot")
        source.given.clear()
        async with loader.load(checkpoint.manifest, [source]) as load:
            await load.done()
        assert 0 < sum(n for _, _, n in source.given) < checkpoint.manifest.num_bytes
        assert path.read_bytes() == checkpoint.content["dense.bin"]


CRASH = """
import asyncio, os, pathlib, pickle, signal, sys
from lite_llm.contracts.tiers import Medium
from lite_llm.tiers import DiskBudget, DiskTier

async def main():
    record, content = pickle.load(sys.stdin.buffer)
    budget = DiskBudget(directory=pathlib.Path(sys.argv[1]), num_bytes=16 << 20)
    async with DiskTier({Medium.NVME: budget}) as disks:
        held = await disks.hold("x", record)
        await disks.write(held, range(0, 3), memoryview(content))
        await disks.write(held, range(5, 6), memoryview(content)[5 << 16:])
        os.pwrite(held._descriptor, b"torn", 7 << 16)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.mark.parametrize("checked", [True, False])
async def test_after_kill_9_good_chunks_are_used_and_torn_ones_are_not(
    tmp_path: Path, host: HostTier, reader: DiskReader, make_checkpoint: Make, checked: bool
) -> None:
    checkpoint = make_checkpoint(experts=0, checked=checked)
    (record,), (content,) = checkpoint.manifest.files, checkpoint.content.values()
    child = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", CRASH, str(tmp_path / "NVME")],
        input=pickle.dumps((record, content)),
        capture_output=True,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    source = Memory(checkpoint.content)
    async with tier(tmp_path, NVME=16 << 20) as disks:
        assert disks.used_bytes(NVME) == record.num_bytes
        loader = Loader(host, reader, disks=disks)
        async with loader.load(checkpoint.manifest, [source]) as load:
            await load.done()
            whole = b"".join(bytes(v) for s in [await load.head()] for v in s.tensors.values())
            assert whole.endswith(content[-300_000:])
        fetched = sum(n for _, _, n in source.given)
        if checked:
            assert fetched <= record.num_bytes - 4 * CHUNK
        else:
            assert fetched == record.num_bytes
        final = tmp_path / "NVME" / "objects" / record.sha256[:2] / record.sha256
        assert final.read_bytes() == content
