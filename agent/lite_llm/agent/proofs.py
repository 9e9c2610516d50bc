"""Bytes from others are believed where something proves them: checksums, or a digest at the end.

What a store tells of a plain file may be no more than its length and a tag. Of such a file the
origin has the only word, and every agent asks it.
"""

from __future__ import annotations

import hashlib

from lite_llm.contracts.errors import Corrupt, StorageFailed
from lite_llm.tiers import Download, Listing, Source


class ProvenSource:
    """A peer that is asked only for files whose bytes can be checked."""

    def __init__(self, peer: Source, listing: Listing) -> None:
        self.uri = peer.uri
        self._peer = peer
        self._proven = {
            record.name for record in listing.files if record.chunk_bytes or record.sha256
        }

    async def identity(self, name: str) -> str:
        """As the peer's."""
        return await self._peer.identity(name)

    async def read(self, name: str, offset: int, target: memoryview) -> None:
        """Raises :class:`StorageFailed` for what only the origin can tell."""
        if name not in self._proven:
            raise StorageFailed(
                f"nothing proves {name} of {self.uri}", where=name, remedy="ask the origin"
            )
        await self._peer.read(name, offset, target)

    async def close(self) -> None:
        """The peer's owner closes it."""


def check_digests(download: Download) -> None:
    """Read the files that have a digest and no checksums; :class:`Corrupt` for one that differs.

    The cache knows files by their digest: one with other bytes would be every model's that has it.
    """
    for record in download.listing.files:
        if record.sha256 and not record.chunk_bytes:
            path = download.path(record.name)
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != record.sha256:
                path.unlink(missing_ok=True)
                raise Corrupt(
                    f"{record.name} does not match its SHA-256",
                    where=f"{download.listing.uri}/{record.name}",
                    remedy="see who gave it: it is fetched anew from the origin",
                )
