"""Files in object stores: ranged GETs that resume where they were cut, into arena memory.

obstore speaks to S3, Azure Blob, Google Cloud Storage and plain HTTP alike. Its own retries are
off: they neither resume a stream nor heed Retry-After.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

import obstore
from obstore.store import HTTPStore, ObjectStore

from lite_llm.contracts.errors import InvalidRequest
from lite_llm.stores.buckets import CLIENT, FAULTS, first_line, open_bucket
from lite_llm.stores.failures import ShortRead
from lite_llm.stores.patient_source import PatientSource, StoreSettings
from lite_llm.stores.retrying import parse_retry_after
from lite_llm.stores.source import checked_parts


class StoreSource(PatientSource):
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
        """As :class:`PatientSource`."""
        super().__init__(uri, settings, retry_after=retry_after, revision=revision, sha256=sha256)
        self._store = store

    async def close(self) -> None:
        """obstore's connections end with the object."""

    async def _head(self, name: str) -> tuple[int, str]:
        meta: Mapping[str, Any] = await obstore.head_async(self._store, checked_parts(name))
        return meta["size"], str(meta["e_tag"] or meta["last_modified"])

    async def _pieces(
        self, name: str, start: int, end: int, piece_bytes: int
    ) -> AsyncGenerator[bytes, None]:
        async with asyncio.timeout(self.settings.stall_seconds):
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
            async with asyncio.timeout(self.settings.stall_seconds):
                piece = await anext(stream, None)
            if piece is None:
                return
            yield piece


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
