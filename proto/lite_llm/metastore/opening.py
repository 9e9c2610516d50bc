"""The door to the metadata store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lite_llm.metastore.connection import Connection
from lite_llm.metastore.etcd import EtcdStore
from lite_llm.metastore.memory import MemoryStore
from lite_llm.metastore.settings import StoreSettings
from lite_llm.metastore.store import Store


@asynccontextmanager
async def open_store(settings: StoreSettings) -> AsyncIterator[Store]:
    """The store that ``settings`` describe, open while the block runs.

    Does not wait for etcd to be up: the first call does. ``InvalidSettings`` for unreadable files.
    """
    if not settings.endpoints:
        memory = MemoryStore()
        try:
            yield memory
        finally:
            memory.close()
        return
    connection = Connection(settings)
    try:
        yield EtcdStore(connection)
    finally:
        await connection.close()
