"""Files in object stores: ranged GETs that resume where they were cut, into arena memory.

obstore speaks to S3, Azure Blob, Google Cloud Storage and plain HTTP alike. Its own retries are
off: they neither resume a stream nor heed Retry-After.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

import obstore
from obstore.store import HTTPStore, ObjectStore

from lite_llm.contracts.errors import InvalidRequest, LiteLLMError, StoreUnavailable
from lite_llm.stores.buckets import CLIENT, FAULTS, first_line, open_bucket, refusal
from lite_llm.stores.failures import ShortRead
from lite_llm.stores.retrying import Backoff, parse_retry_after
from lite_llm.stores.source import FileStatus, checked_parts

PIECE_BYTES: Final = 1 << 20
"""Handed over at a time: what a cut connection loses at most."""
SLOW_PIECE_BYTES: Final = 64 << 10
"""As above after a failure: a slow link brings this much in time."""


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """How patient to be with a store."""

    backoff: Backoff = field(default_factory=Backoff)
    stall_seconds: float = 20.0
    """Without a piece, after which the connection is given up."""


class StoreSource:
    """A prefix of a store; files are addressed below it."""

    def __init__(
        self,
        uri: str,
        store: ObjectStore,
        settings: StoreSettings,
        *,
        retry_after: Callable[[str], Awaitable[float]] | None = None,
        revision: str = "",
        sha256: Mapping[str, str] | None = None,
    ) -> None:
        """``revision`` names content that never changes, such as a commit; ``sha256``: digests by
        file, as far as the source tells any."""
        self.uri = uri.rstrip("/")
        self._store = store
        self._settings = settings
        self._retry_after = retry_after
        self._revision = revision
        self._sha256 = sha256 or {}

    async def identity(self, name: str) -> str:
        if self._revision:
            return f"{self.uri}/{name}@{self._revision}"
        return (await self.status(name)).identity

    async def status(self, name: str) -> FileStatus:
        meta: Mapping[str, Any] = await self._patiently(
            name, 0, lambda: obstore.head_async(self._store, checked_parts(name))
        )
        stamp = f"{self.uri}/{name}:{meta['size']}:{meta['e_tag'] or meta['last_modified']}"
        pinned = f"{self.uri}/{name}@{self._revision}" if self._revision else ""
        return FileStatus(meta["size"], pinned or stamp, self._sha256.get(name, ""))

    async def read(self, name: str, offset: int, target: memoryview) -> None:
        done, piece_bytes = 0, PIECE_BYTES

        async def stream() -> None:
            nonlocal done, piece_bytes
            pieces = self._pieces(name, offset + done, offset + len(target), piece_bytes)
            piece_bytes = SLOW_PIECE_BYTES
            async with aclosing(pieces):
                async for piece in pieces:
                    if done + len(piece) > len(target):
                        raise StoreUnavailable(
                            f"{self.uri}/{name} sent more than it was asked for",
                            where=f"{name} offset {offset + done}",
                        )
                    target[done : done + len(piece)] = piece
                    done += len(piece)
            if done < len(target):
                raise ConnectionError("the answer ended early")

        await self._patiently(name, offset, stream, lambda: done)

    async def close(self) -> None:
        """obstore's connections end with the object."""

    async def _pieces(
        self, name: str, start: int, end: int, piece_bytes: int
    ) -> AsyncGenerator[bytes, None]:
        async with asyncio.timeout(self._settings.stall_seconds):
            answer = await obstore.get_async(
                self._store, checked_parts(name), options={"range": (start, end)}
            )
        if answer.range[0] != start or answer.range[1] < end:
            raise ShortRead(
                f"{self.uri}/{name} ends at {answer.meta['size']}, before {end}",
                where=f"{self.uri}/{name} offset {start}",
                remedy="the store's copy does not fit its manifest: upload it again",
            )
        stream = aiter(answer.stream(min_chunk_size=piece_bytes))
        while True:
            async with asyncio.timeout(self._settings.stall_seconds):
                piece = await anext(stream, None)
            if piece is None:
                return
            yield piece

    async def _patiently(
        self,
        name: str,
        offset: int,
        attempt: Callable[[], Awaitable[Any]],
        progress: Callable[[], int] = lambda: 0,
    ) -> Any:
        failures = 0
        while True:
            before = progress()
            try:
                return await attempt()
            except LiteLLMError:
                raise
            except FAULTS as error:
                if refused := refusal(f"{self.uri}/{name}", error):
                    raise refused from error
                failures = 1 if progress() > before else failures + 1
                wait = self._settings.backoff.delay(
                    failures, await self._asked_to_wait(name, str(error))
                )
                if wait is None:
                    raise StoreUnavailable(
                        f"{self.uri}/{name} can't be read: {first_line(error)}",
                        where=f"{name} offset {offset + progress()}",
                        remedy="look at the store, or name a mirror",
                    ) from error
            await asyncio.sleep(wait)

    async def _asked_to_wait(self, name: str, error: str) -> float:
        if self._retry_after is None or not ("429 Too Many" in error or "503 Service" in error):
            return 0.0
        return await self._retry_after(name)


def open_store(
    uri: str,
    *,
    settings: StoreSettings | None = None,
    options: Mapping[str, str] | None = None,
) -> StoreSource:
    """The store behind ``s3://``, ``az://``, ``gs://``, ``http://`` or ``https://``.

    ``options`` are obstore's settings for the scheme, such as ``endpoint`` or credentials; what is
    not given comes from where the cloud's own tools look.
    """
    settings = settings or StoreSettings()
    if uri.startswith(("http://", "https://")):
        return open_http(uri, settings)
    return StoreSource(uri, open_bucket(uri, options or {}), settings)


def open_http(
    uri: str,
    settings: StoreSettings,
    *,
    headers: Mapping[str, str] | None = None,
    revision: str = "",
    sha256: Mapping[str, str] | None = None,
) -> StoreSource:
    """Files below an HTTP address; :class:`InvalidRequest` for what is none."""
    root = uri.rstrip("/")
    try:
        store = HTTPStore.from_url(
            root,
            client_options=CLIENT | {"default_headers": dict(headers or {})},
            retry_config={"max_retries": 0},
        )
    except (*FAULTS, ValueError) as error:
        raise InvalidRequest(
            f"{uri[:80]!r} can't be opened: {first_line(error)}",
            where="source",
            remedy="correct the address",
        ) from error

    async def retry_after(name: str) -> float:
        # obstore keeps the answer's headers to itself, so the server is asked for them alone.
        return await asyncio.to_thread(_retry_after_of, f"{root}/{quote(name)}", headers or {})

    return StoreSource(
        root, store, settings, retry_after=retry_after, revision=revision, sha256=sha256
    )


def _retry_after_of(url: str, headers: Mapping[str, str]) -> float:
    request = Request(url, method="HEAD")  # http(s) only
    for header, value in headers.items():
        # A token is for the host that it was given for; urllib would tell whoever that names.
        request.add_unredirected_header(header, value)
    try:
        with urlopen(request, timeout=5):
            return 0.0
    except HTTPError as error:
        with error:
            return parse_retry_after(error.headers.get("Retry-After", ""), datetime.now(UTC))
    except (URLError, HTTPException, OSError):
        return 0.0
