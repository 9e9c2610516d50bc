"""Bytes of a local file served from the page cache where they lie: mapped, not copied.

What is promised: once a chunk is verified, its bytes stay as they were for as long as they are
leased, whatever happens to the file. A published checkpoint is never written to again, but people
do copy new files over old ones; so a mapping is made only under a guard (:mod:`file_guard`), and
before a writer gets through, the bytes in use move to memory of our own, at the same address. Pages
that the kernel took back under pressure and can't read again from a failing disk end the process,
like those of a failing swap device; whoever fears that gives the loader ``map_cached=False``.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

import structlog

from lite_llm.contracts.errors import Internal
from lite_llm.contracts.manifest import FileRecord
from lite_llm.stores import ReadFailed
from lite_llm.tiers.arena import Arena, Block
from lite_llm.tiers.chunks import Chunks
from lite_llm.tiers.extents import GRANULE, aligned_down, aligned_up
from lite_llm.tiers.failures import StillLeased
from lite_llm.tiers.file_guard import file_guards
from lite_llm.tiers.page_cache import cached_bytes, is_cached
from lite_llm.tiers.plan import Run
from lite_llm.tiers.verified import VerifiedChunks

log = structlog.get_logger(__name__)

MOST: Final = 0.9
"""Share of the wanted bytes that the page cache must have: the rest comes through page faults,
which read a disk at a fraction of its rate."""

_MAP_NORESERVE: Final = 0x4000
_MADV_POPULATE_READ: Final = 22
_MREMAP_MAYMOVE_FIXED: Final = 1 | 2


def is_better_mapped(offset: int, num_bytes: int, *, cached: int, file_bytes: int) -> bool:
    """Whether to serve these bytes in place, ``cached`` of them being in the page cache.

    Not if the file ends before them: reading says that with an error.
    """
    fits = num_bytes > 0 and offset % GRANULE == 0 and offset + num_bytes <= file_bytes
    return fits and cached >= MOST * num_bytes


def mappings(
    wanted: Iterable[tuple[Run, Path | None]], known: VerifiedChunks
) -> dict[Run, MappedFile]:
    """Those runs that are better served in place, each with its file; see to it that they close."""
    served: dict[Run, MappedFile] = {}
    for path, runs in _by_path(wanted).items():
        try:
            file = MappedFile(path, known, runs[0].file)
        except OSError:  # the arena serves it, or its reader says what is wrong
            continue
        served |= {run: file for run in runs if file.is_worth(run)}
        if file not in served.values():
            file.close()
    return served


def _by_path(wanted: Iterable[tuple[Run, Path | None]]) -> dict[Path, list[Run]]:
    runs: dict[Path, list[Run]] = {}
    for run, path in wanted:
        if path is not None and Chunks(run.file).is_aligned:
            runs.setdefault(path, []).append(run)
    return runs


class MappedFile:
    """A guarded mapping of a whole file, made of address space only until pages are touched."""

    def __init__(self, path: Path, known: VerifiedChunks, record: FileRecord) -> None:
        """Raises ``OSError`` where the file can't be opened, mapped or guarded."""
        self.path = path
        self.is_private = False
        """Whether a writer came, and the parts have left the file behind."""
        self._parts: set[MappedPart] = set()
        self._lock = threading.Lock()
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not file_guards().hold(self.descriptor, self._leave_file):
                raise OSError(errno.EOPNOTSUPP, "the file can't be guarded", str(path))
            self.num_bytes = os.fstat(self.descriptor).st_size
            self.verified = known.of(self.descriptor, record)
            """Ranges of chunks that need no check."""
            # Writable and private: a chunk that is bad in the file is mended in memory only.
            self._pages = mmap.mmap(
                self.descriptor, self.num_bytes, flags=mmap.MAP_PRIVATE | _MAP_NORESERVE
            )
        except (OSError, ValueError) as error:
            self._close_descriptor()
            raise error if isinstance(error, OSError) else OSError(str(error)) from error
        self._all = memoryview(self._pages)
        anchor = ctypes.c_char.from_buffer(self._pages)
        self._address = ctypes.addressof(anchor)
        del anchor  # or its export would keep the pages from being unmapped

    def is_worth(self, run: Run) -> bool:
        """Whether the run is better served from here (see :func:`is_better_mapped`)."""
        cached = cached_bytes(self.descriptor, run.start, run.num_bytes)
        return is_better_mapped(run.start, run.num_bytes, cached=cached, file_bytes=self.num_bytes)

    def block(self, offset: int, num_bytes: int, *, owner: str) -> Block:
        """A part as a block of an arena of its own; ``offset`` lies on a page border.

        Raises ``OSError`` if the file is being written to.
        """
        part = MappedPart(self, offset, num_bytes)
        with self._lock:
            if self.is_private:
                raise OSError(errno.ESTALE, "the file is being written to", str(self.path))
            self._parts.add(part)
        return Arena("mapped file", part).allocate(num_bytes, owner=owner)

    def known(self, run: Run) -> set[int]:
        """Chunks of the run that can be used as they are: verified before, and still there."""
        if cached_bytes(self.descriptor, run.start, run.num_bytes) < run.num_bytes:
            return set()
        return {chunk for chunks in tuple(self.verified) for chunk in chunks if chunk in run.chunks}

    def populate(self, offset: int, num_bytes: int) -> None:
        """Have every page there, or :class:`ReadFailed` instead of the signal a touch would be."""
        # The kernel maps pages that it has several at a touch, which is faster than being asked.
        if not self.is_private and is_cached(self.descriptor, offset, num_bytes):
            return
        start = aligned_down(offset)
        if _libc().madvise(
            ctypes.c_void_p(self._address + start),
            ctypes.c_size_t(offset + num_bytes - start),
            _MADV_POPULATE_READ,
        ):
            reason = os.strerror(ctypes.get_errno())
            raise ReadFailed(
                f"reading {self.path} at {offset} failed: {reason}",
                where=f"{self.path} offset {offset}",
                remedy="look at the kernel's log; the disk may be failing",
            )

    def look_again(self, offset: int, num_bytes: int) -> None:
        """Forget these pages, so that they come from the disk itself."""
        if self.is_private:
            return
        self._pages.madvise(mmap.MADV_DONTNEED, offset, aligned_up(num_bytes))
        os.posix_fadvise(self.descriptor, offset, num_bytes, os.POSIX_FADV_DONTNEED)
        self.populate(offset, num_bytes)

    def mend(self, target: memoryview, mended: memoryview) -> None:
        """Write to a part, in memory only, and not while its pages are being replaced."""
        with self._lock:
            target[: len(mended)] = mended

    def view(self, offset: int, num_bytes: int) -> memoryview:
        return self._all[offset : offset + num_bytes]

    def let_go(self, part: MappedPart) -> None:
        """The last part closes the file."""
        with self._lock:
            self._parts.discard(part)
        self.close_unless_used()

    def close_unless_used(self) -> None:
        """Close a file of which no part is left. Twice is harmless."""
        if not self._parts and self.descriptor >= 0:
            self.close()

    def close(self) -> None:
        """Unmap; :class:`StillLeased` while views live."""
        self._close_descriptor()
        self._all.release()
        try:
            self._pages.close()
        except BufferError as error:
            raise StillLeased("views of it are still alive", where=str(self.path)) from error

    def _close_descriptor(self) -> None:
        if self.descriptor >= 0:
            file_guards().release(self.descriptor)
            os.close(self.descriptor)
            self.descriptor = -1

    def _leave_file(self) -> None:
        log.warning("mapped file is about to change", path=str(self.path))
        with self._lock:
            self.is_private = True
            for part in self._parts:
                try:
                    self.populate(part.offset, part.num_bytes)
                    _replace_pages(self._address + part.offset, part.num_bytes)
                except (ReadFailed, OSError) as error:
                    log.error("mapped bytes can't be kept", path=str(self.path), error=str(error))


class MappedPart:
    """The memory of one run of a mapped file (see :class:`Memory`)."""

    pinned = ""
    why_not_pinned = "the pages are the page cache's"

    def __init__(self, file: MappedFile, offset: int, num_bytes: int) -> None:
        assert offset % GRANULE == 0, offset
        self.file = file
        self.offset = offset
        self.num_bytes = aligned_up(num_bytes)

    def view(self, offset: int, num_bytes: int) -> memoryview:
        return self.file.view(self.offset + offset, num_bytes)

    def move(self, source: int, target: int, num_bytes: int) -> None:
        raise Internal("a mapped block lies where its file has it", where=str(self.file.path))

    def close(self) -> None:
        self.file.let_go(self)


def _replace_pages(address: int, num_bytes: int) -> None:
    """Put a copy in ordinary memory where the pages are; readers notice nothing."""
    libc = _libc()
    anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    writable = mmap.PROT_READ | mmap.PROT_WRITE
    length = ctypes.c_size_t(num_bytes)
    copy = libc.mmap(None, length, writable, anonymous, -1, ctypes.c_long(0))
    if copy == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "no memory to copy a mapped file to")
    ctypes.memmove(copy, address, num_bytes)
    libc.mremap(
        ctypes.c_void_p(copy), length, length, _MREMAP_MAYMOVE_FIXED, ctypes.c_void_p(address)
    )


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mremap.restype = ctypes.c_void_p
    return libc
