"""A finished checkpoint into a store: the index last, so that nobody sees half of one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import obstore

from lite_llm.checkpoint import INDEX_NAME, SIGNATURE_NAME, read_index
from lite_llm.contracts.errors import Corrupt, InvalidRequest, LiteLLMError, StoreUnavailable
from lite_llm.stores import open_bucket, refusal
from lite_llm.stores.buckets import FAULTS, first_line

PART_BYTES: Final = 16 << 20
RETRIES: Final = 5
LONGEST_SIGNED: Final = timedelta(days=7)  # what S3 and GCS allow


async def publish(
    directory: Path, uri: str, options: Mapping[str, str], progress: Callable[[int], None]
) -> None:
    """Put the checkpoint in ``directory`` under ``uri``; ``progress`` is told the bytes there.

    What is there already by name and size is not sent again: the address names the content.
    """
    store = open_bucket(uri, options, retries=RETRIES)
    names = await asyncio.to_thread(checkpoint_files, directory)
    done = 0
    for name in names:
        path = directory / name
        num_bytes = path.stat().st_size
        try:
            if name == INDEX_NAME or await _size_at(store, name) != num_bytes:
                await obstore.put_async(store, name, path, chunk_size=PART_BYTES, max_concurrency=4)
            stored = await _size_at(store, name)
        except FAULTS as error:
            raise _failure(f"{uri}/{name}", error) from error
        if stored != num_bytes:
            raise Corrupt(
                f"{uri}/{name} has {stored} bytes after {num_bytes} were sent",
                where=f"{uri}/{name}",
                remedy="look at the store; the next attempt sends it again",
            )
        done += num_bytes
        progress(done)


def checkpoint_files(directory: Path) -> list[str]:
    """All files of the checkpoint in ``directory``; its index is the last."""
    manifest = read_index(directory)
    names = [file.name for file in manifest.files] + sorted(manifest.extras)
    signed = [SIGNATURE_NAME] if (directory / SIGNATURE_NAME).exists() else []
    return [*names, *signed, INDEX_NAME]


async def published_index(uri: str, options: Mapping[str, str]) -> bytes | None:
    """The index under ``uri``; None where no checkpoint was published."""
    try:
        answer = await obstore.get_async(open_bucket(uri, options, retries=RETRIES), INDEX_NAME)
        return bytes(await answer.bytes_async())
    except FileNotFoundError:
        return None
    except FAULTS as error:
        raise _failure(f"{uri}/{INDEX_NAME}", error) from error


async def signed_urls(
    uri: str, names: Sequence[str], options: Mapping[str, str], *, seconds: float = 3600.0
) -> dict[str, str]:
    """Addresses at which the files under ``uri`` can be read without credentials for a while.

    Raises :class:`InvalidRequest` for stores that sign nothing.
    """
    if urlsplit(uri).scheme not in ("s3", "az", "gs"):
        raise InvalidRequest(f"{uri} can't be signed", where=uri, remedy="use s3, az or gs")
    lifetime = min(timedelta(seconds=seconds), LONGEST_SIGNED)
    store: Any = open_bucket(uri, options, retries=RETRIES)
    try:
        urls = await obstore.sign_async(store, "GET", list(names), lifetime)
    except FAULTS as error:
        raise _failure(uri, error) from error
    return dict(zip(names, urls, strict=True))


async def _size_at(store: Any, name: str) -> int | None:
    try:
        return (await obstore.head_async(store, name))["size"]
    except FileNotFoundError:
        return None


def _failure(what: str, error: Exception) -> LiteLLMError:
    return refusal(what, error) or StoreUnavailable(
        f"{what} can't be reached: {first_line(error)}", where=what, remedy="look at the store"
    )
