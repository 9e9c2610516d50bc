"""From a URI to the source behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lite_llm.contracts.errors import InvalidRequest
from lite_llm.stores.patient_source import StoreSettings
from lite_llm.stores.source import LocalSource, Origin
from lite_llm.stores.store_source import StoreSource, open_store


async def open_source(
    uri: str,
    *,
    settings: StoreSettings | None = None,
    options: Mapping[str, str] | None = None,
) -> Origin | LocalSource:
    """The source for ``file``, ``s3``, ``az``, ``gs``, ``http``, ``https`` or ``hf``.

    ``options`` go to the store's client (see :func:`open_store`); for ``hf`` they may hold
    ``endpoint`` and ``token``. Raises :class:`InvalidRequest` for what is no such URI.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise InvalidRequest(
            f"{uri[:80]!r} is no address: {error}", where="source", remedy="correct it"
        ) from error
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"}:
            raise InvalidRequest(
                f"{uri[:80]!r} names another machine", where="source", remedy="write file:///PATH"
            )
        return LocalSource(Path(unquote(parts.path)))
    if parts.scheme == "hf":
        open_hub = await asyncio.to_thread(_import_open_hub)
        known = dict(options or {})
        return await open_hub(
            uri, settings=settings, endpoint=known.get("endpoint"), token=known.get("token")
        )
    return open_store(uri, settings=settings, options=options)


def _import_open_hub() -> Callable[..., Awaitable[StoreSource]]:
    # Importing the hub's client takes most of a second, which only its users should wait for.
    from lite_llm.stores.hub import open_hub

    return open_hub
