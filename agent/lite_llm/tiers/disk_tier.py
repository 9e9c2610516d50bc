"""Everything downloaded, kept on local disks while their budgets last: NVMe first, then SATA.

Files are named by the digest of their content. One process owns the directories, under a lock that
dies with it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import time
from typing import TypeVar

import structlog

from lite_llm.contracts.errors import Conflict, InvalidSettings, OutOfMemory
from lite_llm.contracts.manifest import FileRecord
from lite_llm.contracts.tiers import Medium
from lite_llm.tiers.cached_file import CachedFile, fsync_directory
from lite_llm.tiers.measures import Measures
from lite_llm.tiers.residency import (
    Action,
    Copy,
    Drop,
    Event,
    Gone,
    Pinned,
    Residency,
    Unpinned,
    Used,
    Wanted,
)
from lite_llm.tiers.threads import on_thread

log = structlog.get_logger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DiskBudget:
    """One directory of the tier."""

    directory: Path
    num_bytes: int
    """What all files in it together may take."""


class DiskTier:
    """The directories; use as an asynchronous context manager."""

    def __init__(
        self, disks: Mapping[Medium, DiskBudget], *, clock: Callable[[], float] = time
    ) -> None:
        """``disks`` for :data:`Medium.NVME`, :data:`Medium.SATA` or both."""
        self._disks = disks
        self._clock = clock
        self._residency = Residency({medium: disk.num_bytes for medium, disk in disks.items()})
        self._files: dict[str, CachedFile] = {}
        self._measures = Measures()
        self._locks: list[int] = []
        self._changing = asyncio.Lock()
        # One thread: writing through must not take the disk away from those who read.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="tiers-write")

    async def __aenter__(self) -> DiskTier:
        """Take the directories and find what is in them.

        Raises :class:`Conflict` if another process has them.
        """
        try:
            for disk in self._disks.values():
                self._locks.append(_locked(disk.directory))
            for medium in self._disks:
                await self._recover(medium)
        except BaseException:
            self._release()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._release()

    def measured_by(self, measures: Measures) -> None:
        """Tell what is kept, moved and evicted to ``measures`` from now on."""
        self._measures = measures
        self._tell()

    def used_bytes(self, medium: Medium) -> int:
        """Of the budget, partial files at their full size."""
        return self._residency.used_bytes(medium)

    async def hold(self, identity: str, record: FileRecord) -> CachedFile | None:
        """The file's place on a disk, kept until let go; None if there is no room for it."""
        key = record.sha256 or sha256(identity.encode()).hexdigest()
        async with self._changing:
            if held := self._files.get(key):
                self._pin(held)
                return held
            medium = self._residency.nearest(key)
            try:
                if medium is Medium.OBJECT_STORE:
                    medium = min(self._disks)
                    wanted = Wanted(key, record.num_bytes, medium)
                    await self._carry_out(self._on(wanted), arriving=key)
                held = CachedFile(
                    key, medium, self._final(medium, key), self._partial(medium, key), record
                )
            except OutOfMemory:
                return None
            except OSError as error:
                self._on(Gone(key, medium))
                log.warning("file can't be kept on disk", path=record.name, error=str(error))
                return None
            self._files[key] = held
            self._pin(held)
            self._tell()
            return held

    async def draw_near(self, identity: str, record: FileRecord) -> None:
        """Move the file to the nearest disk if it lies whole on another one, and there is room."""
        key = record.sha256 or sha256(identity.encode()).hexdigest()
        nearest = min(self._disks)
        async with self._changing:
            medium = self._residency.nearest(key)
            if medium in (nearest, Medium.OBJECT_STORE) or key in self._files:
                return
            if not self._final(medium, key).exists():
                return
            try:
                await self._carry_out(self._on(Wanted(key, record.num_bytes, nearest)))
            except OutOfMemory:
                log.info("no room to move a file nearer", path=record.name, medium=nearest.name)
            self._tell()

    async def write(self, held: CachedFile, chunks: range, view: memoryview) -> None:
        """Write chunks through. A full or failing disk only ends the keeping, never the load."""
        try:
            await self._on_disk(held.write, chunks, view)
        except OSError as error:
            log.warning("writing through failed", path=str(held.partial), error=str(error))
            await self._on_disk(held.abandon)

    async def forget(self, held: CachedFile, chunks: range) -> None:
        """These chunks turned out bad: they are written again, or the keeping ends."""
        try:
            await self._on_disk(held.forget, chunks)
        except OSError as error:
            log.warning("bad chunks can't be replaced", path=str(held.final), error=str(error))
            await self._on_disk(held.abandon)

    async def let_go(self, held: CachedFile) -> None:
        """The inverse of :meth:`hold`; the moment to promote what is in demand."""
        async with self._changing:
            held.users -= 1
            self._on(Unpinned(held.key))
            if held.users:
                return
            held.close()
            del self._files[held.key]
            if not held.path.exists():
                self._on(Gone(held.key, held.medium))
            elif held.is_complete:
                os.utime(held.path)
                await self._carry_out(self._on(Used(held.key)))
            self._tell()

    def _tell(self) -> None:
        for medium, disk in self._disks.items():
            held = [file for file in self._files.values() if file.medium is medium]
            self._measures.fills(
                medium,
                capacity=disk.num_bytes,
                used=self.used_bytes(medium),
                reserved=sum(file.num_bytes for file in held if not file.is_complete),
                pinned=sum(file.num_bytes for file in held),
            )

    def _pin(self, held: CachedFile) -> None:
        held.users += 1
        self._on(Pinned(held.key))

    def _on(self, event: Event) -> list[Action]:
        return self._residency.on(event, self._clock())

    async def _carry_out(self, actions: list[Action], *, arriving: str = "") -> None:
        for action in actions:
            match action:
                case Copy(key, source, target) if key != arriving:
                    try:
                        await self._on_disk(self._copy, key, source, target)
                        reason = "promotion" if target < source else "demotion"
                        self._measures.changed(source, target, reason)
                    except OSError as error:
                        log.warning("moving a file between disks failed", error=str(error))
                        self._on(Gone(key, target))
                case Drop(key, medium):
                    self._final(medium, key).unlink(missing_ok=True)
                    self._partial(medium, key).unlink(missing_ok=True)
                    self._measures.evicted(medium, "capacity")
                case _:
                    pass

    def _copy(self, key: str, source: Medium, target: Medium) -> None:
        partial_name, final = self._partial(target, key), self._final(target, key)
        try:
            shutil.copyfile(self._final(source, key), partial_name)  # a partial file is not moved
            with partial_name.open("rb") as file:
                os.fsync(file.fileno())
        except OSError:
            partial_name.unlink(missing_ok=True)
            raise
        final.parent.mkdir(exist_ok=True)
        partial_name.rename(final)
        fsync_directory(final.parent)

    async def _recover(self, medium: Medium) -> None:
        root = self._disks[medium].directory
        found = [*root.glob("objects/*/*"), *root.glob("partial/*")]
        for path in sorted(found, key=lambda path: (path.stat().st_mtime, path.name)):
            try:
                wanted = Wanted(path.name, path.stat().st_size, medium)
                await self._carry_out(self._on(wanted), arriving=path.name)
            except OutOfMemory:
                path.unlink()  # the budget was made smaller than this file

    async def _on_disk(self, work: Callable[..., T], *args: object) -> T:
        return await on_thread(self._writer, work, *args)

    def _final(self, medium: Medium, key: str) -> Path:
        return self._disks[medium].directory / "objects" / key[:2] / key

    def _partial(self, medium: Medium, key: str) -> Path:
        return self._disks[medium].directory / "partial" / key

    def _release(self) -> None:
        self._writer.shutdown()
        for held in self._files.values():
            held.close()
        for descriptor in self._locks:
            os.close(descriptor)
        self._locks.clear()


def _locked(directory: Path) -> int:
    try:
        (directory / "objects").mkdir(parents=True, exist_ok=True)
        (directory / "partial").mkdir(exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise InvalidSettings(
            f"{directory} can't be used: {error.strerror}",
            where=str(directory),
            remedy="name a directory that this program may write to",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Conflict(
            f"another process keeps its files in {directory}",
            where=str(directory),
            remedy="give every agent a directory of its own",
        ) from None
    return descriptor
