"""A peer that lies is found out, and never asked where it could not be."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from lite_llm.agent.checkpoints import Checkpoints
from lite_llm.agent.proofs import ProvenSource, check_digests
from lite_llm.checkpoint.hashing import Checksums
from lite_llm.contracts import Medium
from lite_llm.contracts.errors import Corrupt, StorageFailed
from lite_llm.contracts.manifest import FileRecord
from lite_llm.proto.v1.model_pb2 import ModelSource
from lite_llm.tiers import DiskBudget, DiskReader, DiskTier, Listing, Source, downloading

TRUTH = {"plain": b"plain" * 1000, "digested": b"digest" * 1000, "checked": b"check" * 1000}


def listing() -> Listing:
    checksums = Checksums(1 << 10)
    checksums.update(memoryview(TRUTH["checked"]))
    records = (
        checksums.record("checked"),
        FileRecord(
            "digested", len(TRUTH["digested"]), hashlib.sha256(TRUTH["digested"]).hexdigest()
        ),
        FileRecord("plain", len(TRUTH["plain"]), ""),
    )
    identities = {"plain": "tag-1", "digested": "tag-2", "checked": "tag-3"}
    return Listing(uri="http://origin/x", digest="d", files=records, identities=identities)


class Told(Source):
    """Gives the truth, or zeros."""

    def __init__(self, uri: str, *, lies: Sequence[str] = ()) -> None:
        self.uri = uri
        self.asked: set[str] = set()
        self._lies = lies

    async def identity(self, name: str) -> str:
        return name

    async def read(self, name: str, offset: int, target: memoryview) -> None:
        self.asked.add(name)
        part = TRUTH[name][offset : offset + len(target)]
        target[:] = bytes(len(part)) if name in self._lies else part

    async def close(self) -> None:
        pass


@asynccontextmanager
async def disks_in(root: Path) -> AsyncIterator[tuple[DiskTier, DiskReader]]:
    async with AsyncExitStack() as opened:
        budget = DiskBudget(directory=root, num_bytes=1 << 30)
        disks = await opened.enter_async_context(DiskTier({Medium.NVME: budget}))
        reader = DiskReader(threads=1)
        opened.callback(reader.close)
        yield disks, reader


async def test_only_the_origin_is_asked_for_what_nothing_proves(tmp_path: Path) -> None:
    peer, origin = Told("agent://peer", lies=["plain", "checked"]), Told("http://origin")
    wanted = listing()
    async with (
        disks_in(tmp_path) as (disks, reader),
        downloading(wanted, disks, reader) as download,
    ):
        await download.run([ProvenSource(peer, wanted), origin])
        check_digests(download)
        for name, content in TRUTH.items():
            assert download.path(name).read_bytes() == content
    assert peer.asked == {"digested", "checked"}
    assert origin.asked == {"plain", "checked"}  # the second for want of a true one


async def test_a_lie_about_a_file_with_a_digest_is_found_and_kept_nowhere(tmp_path: Path) -> None:
    peer, origin = Told("agent://peer", lies=["digested"]), Told("http://origin")
    wanted = listing()
    async with disks_in(tmp_path) as (disks, reader):
        async with downloading(wanted, disks, reader) as download:
            await download.run([ProvenSource(peer, wanted), origin])
            with pytest.raises(Corrupt, match="digested does not match its SHA-256"):
                check_digests(download)
        async with downloading(wanted, disks, reader) as download:
            assert not download.is_complete
            await download.run([origin])
            check_digests(download)
            assert download.path("digested").read_bytes() == TRUTH["digested"]


async def test_a_peer_alone_does_not_do(tmp_path: Path) -> None:
    wanted = listing()
    async with (
        disks_in(tmp_path) as (disks, reader),
        downloading(wanted, disks, reader) as download,
    ):
        with pytest.raises(StorageFailed, match="nothing proves plain"):
            await download.run([ProvenSource(Told("agent://peer"), wanted)])


async def test_a_load_asks_the_origin_again_after_a_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, origin = Told("agent://peer", lies=["digested"]), Told("http://origin")

    async def listed(*_: object) -> tuple[Listing, Told]:
        return listing(), origin

    @asynccontextmanager
    async def sharing(digest: str) -> AsyncIterator[Sequence[Source]]:
        yield [peer]

    monkeypatch.setattr(Checkpoints, "_listing", listed)
    source = ModelSource(uri="http://origin/x")
    async with disks_in(tmp_path) as (disks, reader):
        checkpoints = Checkpoints(tmp_path, disks, reader, sharing=sharing)
        checkpoints.prepare()
        with pytest.raises(Corrupt):
            async with checkpoints.held(source, lambda *_: None):
                pass
        async with checkpoints.held(source, lambda *_: None, distrusted=True) as checkpoint:
            for name, content in TRUTH.items():
                assert (checkpoint.directory / name).read_bytes() == content
