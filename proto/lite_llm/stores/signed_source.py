"""A checkpoint's files at signed addresses: whoever has them needs no credentials, for a while.

An address is signed for GET alone, so that a file's length is asked for by reading its first byte.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
from yarl import URL

from lite_llm.contracts.errors import Forbidden, StoreUnavailable
from lite_llm.stores.failures import ReadFailed, ShortRead
from lite_llm.stores.patient_source import PatientSource, StoreSettings

_REFUSED: Final = (400, 401, 403)  # what stores answer to a signature that they do not take


class SignedSource(PatientSource):
    """What ``uri`` holds, read at ``urls`` by file name until ``until`` (Unix time)."""

    def __init__(
        self,
        uri: str,
        urls: Mapping[str, str],
        until: float,
        *,
        settings: StoreSettings | None = None,
    ) -> None:
        """Nothing is asked yet."""
        super().__init__(uri, settings or StoreSettings())
        self._urls = dict(urls)
        self._until = until
        self._session: aiohttp.ClientSession | None = None

    @property
    def has_expired(self) -> bool:
        """By this machine's clock."""
        return time.time() >= self._until

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _head(self, name: str) -> tuple[int, str]:
        async with self._answer(name, 0, 1) as answer:
            told = answer.headers.get("Content-Range", "").rpartition("/")[2]
            # An empty file has no first byte: what is told of it comes with a 416, or with a 200.
            num_bytes = int(told) if told.isdecimal() else answer.content_length or 0
            return num_bytes, _version(answer.headers)

    async def _pieces(
        self, name: str, start: int, end: int, piece_bytes: int
    ) -> AsyncGenerator[bytes, None]:
        async with self._answer(name, start, end) as answer:
            if answer.status != 206:
                raise ShortRead(
                    f"{self.uri}/{name} sends no part from {start} to {end}",
                    where=f"{self.uri}/{name} offset {start}",
                    remedy="the store's copy does not fit its manifest: upload it again",
                )
            async for piece in answer.content.iter_chunked(piece_bytes):
                yield piece

    @asynccontextmanager
    async def _answer(
        self, name: str, start: int, end: int
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        where = f"{self.uri}/{name}"
        if name not in self._urls:
            raise ReadFailed(f"{where} was not signed", where=where, remedy="check the source")
        if self.has_expired:
            raise StoreUnavailable(
                f"the signed address of {where} has expired", where=where, remedy="load it anew"
            )
        if self._session is None:
            limits = aiohttp.ClientTimeout(
                total=None, sock_connect=10.0, sock_read=self.settings.stall_seconds
            )
            self._session = aiohttp.ClientSession(timeout=limits, auto_decompress=False)
        # The query is part of what was signed: it goes out as it came.
        url = URL(self._urls[name], encoded=True)
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        try:
            async with self._session.get(url, headers=headers) as answer:
                if answer.status in _REFUSED:
                    raise Forbidden(
                        f"the store refuses the signed address of {where}",
                        where=where,
                        remedy="check the clocks, and what the signer may read",
                    )
                if answer.status == 404:
                    raise ReadFailed(
                        f"{where} does not exist", where=where, remedy="check the source"
                    )
                if answer.status not in (200, 206, 416):
                    raise ConnectionError(f"{answer.status} {answer.reason}")
                yield answer
        except (aiohttp.ClientError, TimeoutError) as error:
            # Without the error's own words: they may hold the address, which is a secret.
            raise ConnectionError(f"{type(error).__name__} while reading {name}") from None


def _version(headers: Mapping[str, str]) -> str:
    return headers.get("ETag") or headers.get("Last-Modified") or ""
