"""Both stores, and a real etcd that tests in this room share."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import cast

import pytest

from lite_llm.metastore import MemoryStore, open_store
from lite_llm.metastore.etcd import EtcdStore
from lite_llm.testing.etcd import EtcdServer, etcd_server


@dataclass(frozen=True)
class Backend:
    """A store, and what its operator can do to it."""

    store: EtcdStore | MemoryStore
    compact: Callable[[int], None]


@pytest.fixture(scope="session")
def etcd() -> Iterator[EtcdServer]:
    """For tests that leave the server as it is; the others start their own."""
    with etcd_server() as server:
        yield server


@pytest.fixture(params=["memory", "etcd"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    if request.param == "memory":
        memory = MemoryStore()
        yield Backend(memory, memory.compact)
        memory.close()
    else:
        server: EtcdServer = request.getfixturevalue("etcd")
        async with open_store(server.settings()) as store:
            yield Backend(cast(EtcdStore, store), server.compact)


@pytest.fixture
def store(backend: Backend) -> EtcdStore | MemoryStore:
    return backend.store


@pytest.fixture
def compact(backend: Backend) -> Callable[[int], None]:
    """Makes the store forget its history before a revision."""
    return backend.compact


@pytest.fixture
def prefix() -> str:
    """Keys of this test alone."""
    return f"/{uuid.uuid4().hex}/"
