"""Faults to survive: those that have no place with one module, and where the others are tested.

disk full mid-write      test_disk_tier: a_full_or_failing_disk_ends_the_keeping (ENOSPC)
EIO                      the same (EIO); test_disk_reader: an_input_output_error_is_named
short reads              test_disk_reader: many_short_counts, a_file_that_is_too_short
503, stall, cut          test_store_tier: a_busy_server, a_stall_before, what_had_arrived
lies about length        here
wrong bytes              test_store_tier: wrong_bytes_are_fetched_once_more, bytes_that_stay_wrong
a mirror                 test_store_tier: a_mirror_stands_in; test_sharing: a_mirror_serves
a bad checksum           test_disk_reader: a_bad_chunk_is_named, a_chunk_that_is_bad_only_once
kill -9 at any point     here; test_disk_tier: after_kill_9
two racing loaders       test_disk_tier: two_loaders_racing, a_directory_has_one_owner
a budget too small       test_loader: too_little_memory, a_load_of_several_runs; here for disks
a file that changes      test_mapped_file: leased_bytes_stay_as_they_were
"""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lite_llm.contracts.errors import LiteLLMError, StoreUnavailable
from lite_llm.contracts.tiers import Medium
from lite_llm.stores import Backoff, open_store
from lite_llm.tiers import (
    DiskBudget,
    DiskReader,
    DiskTier,
    HostTier,
    Loader,
    LocalSource,
    ShortRead,
    StoreSettings,
)

HASTY = StoreSettings(
    backoff=Backoff(attempts=3, first_seconds=0.01, longest_seconds=0.02), stall_seconds=5.0
)
CONTENT = os.urandom(300_000)

Lie = Callable[[int, int], tuple[str, int, bytes]]
"""From the range that was asked for to Content-Range, Content-Length and body."""


def honest(start: int, end: int) -> tuple[str, int, bytes]:
    return f"{start}-{end - 1}/{len(CONTENT)}", end - start, CONTENT[start:end]


LIES: dict[str, tuple[Lie, type[LiteLLMError]]] = {
    "promises more than it sends": (
        lambda s, e: (f"{s}-{e - 1}/{len(CONTENT)}", e - s, b""),
        StoreUnavailable,
    ),
    "says it is shorter": (
        lambda s, e: (f"{s}-{e - 1}/{len(CONTENT)}", (e - s) // 2, CONTENT[s : (s + e) // 2]),
        StoreUnavailable,
    ),
    "sends more than was asked for": (
        lambda s, e: (f"{s}-{e - 1}/{len(CONTENT)}", e - s + 10, CONTENT[s:e] + bytes(10)),
        StoreUnavailable,
    ),
    "answers for another range": (
        lambda s, e: (f"{s + 10}-{e - 1}/{len(CONTENT)}", e - s - 10, CONTENT[s + 10 : e]),
        StoreUnavailable,
    ),
    "has less than was asked for": (
        lambda s, e: (f"{s}-{e - 101}/{e - 100}", e - s - 100, CONTENT[s : e - 100]),
        ShortRead,
    ),
}


@asynccontextmanager
async def lying(lies: list[Lie]) -> AsyncIterator[str]:
    """A server that gives each request the next answer, and the last one from then on."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked = re.search(r"bytes=(\d+)-(\d+)", head)
        assert asked
        lie = lies.pop(0) if len(lies) > 1 else lies[0]
        content_range, length, body = lie(int(asked[1]), int(asked[2]) + 1)
        writer.write(
            f"HTTP/1.1 206 Partial\r\nContent-Range: bytes {content_range}\r\n"
            f"Content-Length: {length}\r\nConnection: close\r\n"
            'Last-Modified: Sat, 21 Nov 2026 00:00:00 GMT\r\nETag: "1"\r\n\r\n'.encode()
            + body
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("lie", LIES)
async def test_a_store_that_lies_about_length_is_an_error(lie: str) -> None:
    told, error = LIES[lie]
    target = memoryview(bytearray(200_000))
    async with lying([told]) as address:
        store = open_store(address, settings=HASTY)
        with pytest.raises(error):
            await store.read("w.bin", 50_000, target)


@pytest.mark.parametrize("lie", ["promises more than it sends", "says it is shorter"])
async def test_what_a_store_leaves_out_is_asked_for_again(lie: str) -> None:
    target = bytearray(200_000)
    async with lying([LIES[lie][0], honest]) as address:
        await open_store(address, settings=HASTY).read("w.bin", 50_000, memoryview(target))
    assert target == CONTENT[50_000:250_000]


async def test_a_disk_smaller_than_the_file_keeps_nothing_and_evicts_nothing_for_it(
    host: HostTier, reader: DiskReader, make_checkpoint: Callable[..., Any], tmp_path: Path
) -> None:
    small, large = make_checkpoint(layers=1, experts=0), make_checkpoint(layers=6, experts=0)
    budget = DiskBudget(directory=tmp_path / "disk", num_bytes=2 << 20)
    async with DiskTier({Medium.NVME: budget}) as disks:
        loader = Loader(host, reader, disks=disks)
        for model in (small, large):
            source = MemorySource(model.content)
            async with loader.load(model.manifest, [source]) as load:
                await load.done()
        assert disks.used_bytes(Medium.NVME) == small.manifest.num_bytes


class MemorySource:
    uri = "memory://"

    def __init__(self, content: dict[str, bytes]) -> None:
        self._content = content

    async def identity(self, name: str) -> str:
        return name

    async def read(self, name: str, offset: int, target: memoryview) -> None:
        target[:] = self._content[name][offset : offset + len(target)]

    async def close(self) -> None: ...


KILLED = """
import asyncio, os, pathlib, pickle, signal, sys
from lite_llm.contracts.tiers import Medium
from lite_llm.tiers import DiskBudget, DiskTier

record, content = pickle.load(sys.stdin.buffer)
CALLS = [(os, "open"), (os, "pwrite"), (os, "fsync"), (os, "truncate"), (pathlib.Path, "rename")]

def killing(real, left, half):
    def call(*arguments):
        left[0] -= 1
        if left[0] == 0:
            if half and real is REAL["pwrite"]:
                real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2], arguments[2])
            elif half:
                real(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)
    return call

REAL = {name: getattr(place, name) for place, name in CALLS}

async def keep(directory):
    budget = DiskBudget(directory=directory, num_bytes=16 << 20)
    async with DiskTier({Medium.NVME: budget}) as disks:
        held = await disks.hold("x", record)
        for chunk in range(0, len(record.chunk_checksums), 6):
            chunks = range(chunk, min(chunk + 6, len(record.chunk_checksums)))
            await disks.write(held, chunks, memoryview(content)[chunk << 16 :])
        await disks.let_go(held)

for point in range(1, 1000):
    for half in (False, True):
        child = os.fork()
        if child == 0:
            left = [point]
            for place, name in CALLS:
                setattr(place, name, killing(REAL[name], left, half))
            asyncio.run(keep(pathlib.Path(sys.argv[1]) / f"{point}-{half}"))
            os._exit(0)
        status = os.waitpid(child, 0)[1]
    if status == 0:
        print(point)
        break
"""


async def test_killed_at_any_call_that_changes_the_disk_the_next_one_finds_no_torn_byte(
    host: HostTier, reader: DiskReader, make_checkpoint: Callable[..., Any], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(layers=1, experts=0)
    (record,), (content,) = checkpoint.manifest.files, checkpoint.content.values()
    killed = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", KILLED, str(tmp_path)],
        input=pickle.dumps((record, content)),
        capture_output=True,
    )
    assert killed.returncode == 0, killed.stderr.decode()
    points = [f"{at}-{half}" for at in range(1, int(killed.stdout)) for half in (False, True)]
    directories = [tmp_path / point for point in points]
    assert len(directories) >= 16
    for directory in directories:
        budget = DiskBudget(directory=directory, num_bytes=16 << 20)
        async with DiskTier({Medium.NVME: budget}) as disks:
            loader = Loader(host, reader, disks=disks)
            source = MemorySource(checkpoint.content)
            async with loader.load(checkpoint.manifest, [source]) as load:
                await load.done()
            host.clear()
        found = [path for path in directory.rglob("*") if path.is_file() and path.name != "lock"]
        assert [path.name for path in found] == [record.sha256]
        assert found[0].read_bytes() == content


async def test_a_local_file_that_grew_since_it_was_listed_is_read_as_promised(
    loader: Loader, checkpoint: Any, tmp_path: Path
) -> None:
    directory = checkpoint.write(tmp_path / "model")
    with (directory / "dense.bin").open("ab") as file:
        file.write(b"more")
    async with loader.load(checkpoint.manifest, [LocalSource(directory)]) as load:
        head = await load.head()
        span = checkpoint.manifest.tensor_by_name["lm_head.weight"].span
        assert bytes(head.tensors["lm_head.weight"]) == checkpoint.bytes_of(span)
