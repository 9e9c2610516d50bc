"""One program of a cluster, in a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.metastore import Store, StoreSettings, open_store

S = TypeVar("S")


async def serve(
    running: Callable[[S, Store], AbstractAsyncContextManager[object]],
    settings: S,
    store_settings: StoreSettings,
) -> None:
    """Keep ``running`` open until cancelled; :class:`InvalidSettings` without an etcd to share."""
    if not store_settings.endpoints:
        raise InvalidSettings(
            "a program of a cluster needs its etcd", where="--etcd", remedy="write http://host:2379"
        )
    async with open_store(store_settings) as store, running(settings, store):
        await asyncio.Event().wait()
