"""Checkpoints on this node's disk: local ones in place, distant ones in a bounded cache.

The cache knows files by their content, under names that say nothing. Whoever runs a model gets a
directory of hard links with the right names, which is gone when nobody runs it; the cached bytes
stay while there is room.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import structlog

from lite_llm.agent.peers import alone
from lite_llm.agent.proofs import ProvenSource, check_digests
from lite_llm.agent.signed_addresses import SignedAddresses
from lite_llm.agent.sources import is_distant, path_of, pinned_uri, scheme_of
from lite_llm.checkpoint.durable import write_published
from lite_llm.contracts.errors import Internal, ModelNotFound, StorageFailed, StoreUnavailable
from lite_llm.proto.v1 import generate_pb2
from lite_llm.proto.v1.generate_pb2 import LoadProgress
from lite_llm.proto.v1.model_pb2 import ModelSource
from lite_llm.stores import digest_of_directory
from lite_llm.tiers import (
    DiskReader,
    DiskTier,
    Download,
    Listing,
    LocalSource,
    Origin,
    Source,
    downloading,
    list_checkpoint,
    open_source,
)
from lite_llm.tiers.measures import Measures

log = structlog.get_logger(__name__)

Sharing = Callable[[str], AbstractAsyncContextManager[Sequence[Source]]]
"""For the checkpoint with a digest, sources to ask before its origin while the block runs."""


@dataclass(frozen=True)
class LocalCheckpoint:
    """A checkpoint that a worker can open."""

    directory: Path
    num_bytes: int
    digest: str = ""
    """See :class:`Listing`, and :func:`digest_of_directory` for local ones; empty for a file."""


class Checkpoints:
    """Made by :func:`opened_checkpoints`."""

    def __init__(
        self,
        root: Path,
        disks: DiskTier,
        reader: DiskReader,
        *,
        sharing: Sharing = alone,
        measures: Measures | None = None,
    ) -> None:
        """``root`` is on the disk tier's file system: hard links reach no further."""
        self.signed = SignedAddresses()
        self._listings = root / "listings"
        self._views = root / "views"
        self._disks = disks
        self._reader = reader
        self._sharing = sharing
        self._measures = measures or Measures()
        self._numbers = count()
        self._turns: dict[str, asyncio.Lock] = {}
        self._downloads: dict[str, Download] = {}

    def prepare(self) -> None:
        """Make the directories, and clear away what an agent that died left in them."""
        shutil.rmtree(self._views, ignore_errors=True)
        self._views.mkdir(parents=True)
        self._listings.mkdir(exist_ok=True)

    @asynccontextmanager
    async def held(
        self,
        source: ModelSource,
        tell: Callable[[LoadProgress, str], None],
        *,
        distrusted: bool = False,
    ) -> AsyncIterator[LocalCheckpoint]:
        """The checkpoint at ``source`` on this machine's disk, for as long as the block runs.

        ``tell`` gets progress and the checkpoint's digest. ``distrusted`` checks what the cache has
        of it, and brings the rest anew. Raises what says why it can't be had:
        :class:`ModelNotFound`, :class:`StoreUnavailable`, :class:`OutOfMemory` and their like.
        """
        if not is_distant(source):
            yield await asyncio.to_thread(_in_place, path_of(source))
            return
        async with AsyncExitStack() as held:
            tell(LoadProgress(phase=generate_pb2.LOAD_PHASE_SCHEDULE, remaining_seconds=-1.0), "")
            listing, origin = await self._listing(source)
            if origin is not None:
                held.push_async_callback(origin.close)
            # Two models of one checkpoint: the second finds what the first has brought.
            async with self._turns.setdefault(listing.digest, asyncio.Lock()):
                for record in listing.files:
                    await self._disks.draw_near(listing.identity(record), record)
                place = downloading(listing, self._disks, self._reader, measures=self._measures)
                download = await held.enter_async_context(place)
                self._downloads[listing.digest] = download
                held.callback(self._forget, download)
                was_complete = download.is_complete
                if distrusted and origin is not None:
                    await _followed(download, [origin], tell, distrusted=True)
                elif not was_complete:
                    async with self._sharing(listing.digest) as peers:
                        trusted = [ProvenSource(peer, listing) for peer in peers]
                        await _followed(download, [*trusted, *([origin] if origin else [])], tell)
                if distrusted or not was_complete:
                    await asyncio.to_thread(check_digests, download)
            view = await asyncio.to_thread(self._linked, download)
            held.callback(shutil.rmtree, view, ignore_errors=True)
            yield LocalCheckpoint(view, listing.num_bytes, listing.digest)

    async def read(self, digest: str, file: str, offset: int, num_bytes: int) -> bytes:
        """For a peer: bytes of a checkpoint that is here or on its way, once they are here."""
        download = self._downloads.get(digest)
        if download is None or file not in {record.name for record in download.listing.files}:
            raise ModelNotFound(
                f"{file[:80]!r} of {digest[:80]!r} is not on this agent",
                where="checkpoint_digest",
                remedy="ask another, or the origin",
            )
        return await download.read(file, offset, num_bytes)

    def _forget(self, download: Download) -> None:
        if self._downloads.get(download.listing.digest) is download:
            del self._downloads[download.listing.digest]

    async def _listing(self, source: ModelSource) -> tuple[Listing, Origin | None]:
        """With the origin, unless that is away and what it said before has to do."""
        uri = pinned_uri(source)
        path = self._listings / hashlib.sha256(uri.encode()).hexdigest()
        try:
            origin = self.signed.source(uri) or await open_source(uri)
            if isinstance(origin, LocalSource):
                raise Internal(f"{uri} is not distant", where="source.uri")
            try:
                listing = await list_checkpoint(origin)
            except BaseException:
                await origin.close()
                raise
        except StoreUnavailable as error:
            if not path.exists():
                raise
            log.warning("origin is away, the cache has to do", address=uri, error=str(error))
            return Listing.from_json(path.read_bytes(), str(path)), None
        try:
            self._listings.mkdir(parents=True, exist_ok=True)
            await asyncio.to_thread(write_published, path, listing.to_json())
        except OSError as error:  # it costs a start without the origin, and not this one
            log.warning("listing can't be kept", path=str(path), error=str(error))
        return listing, origin

    def _linked(self, download: Download) -> Path:
        view = self._views / f"{next(self._numbers)}"
        try:
            for record in download.listing.files:
                path = view / record.name
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link(download.path(record.name), path)
        except OSError as error:
            shutil.rmtree(view, ignore_errors=True)
            raise StorageFailed(
                f"{view} can't be made: {error.strerror}",
                where=str(view),
                remedy="look at the disk: it is full or failing",
            ) from error
        return view


async def _followed(
    download: Download,
    sources: Sequence[Source],
    tell: Callable[[LoadProgress, str], None],
    *,
    distrusted: bool = False,
) -> None:
    began = time.monotonic()

    async def follow() -> None:
        first: int | None = None
        async for step in download.progress():
            seconds = time.monotonic() - began
            first = step.done_bytes if first is None else first
            rate = (step.done_bytes - first) / seconds if seconds else 0.0
            left = step.total_bytes - step.done_bytes
            progress = LoadProgress(
                phase=generate_pb2.LOAD_PHASE_FETCH,
                done_bytes=step.done_bytes,
                total_bytes=step.total_bytes,
                phase_seconds=seconds,
                remaining_seconds=left / rate if rate else -1.0,
            )
            tell(progress, download.listing.digest)

    following = asyncio.create_task(follow())
    try:
        await download.run(sources, distrusted=distrusted)
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


def _in_place(place: Path) -> LocalCheckpoint:
    if place.is_file():
        return LocalCheckpoint(place, place.stat().st_size)
    num_bytes = sum(path.stat().st_size for path in place.iterdir() if path.is_file())
    return LocalCheckpoint(place, num_bytes, digest_of_directory(place))


def source_words(source: ModelSource) -> str:
    """For people: "disk", "s3", "hf", …."""
    return scheme_of(source) if is_distant(source) else "disk"
