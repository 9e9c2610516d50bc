"""Settings that can't be meant are refused where they are made."""

from pathlib import Path

import pytest

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.metastore import MemoryStore, StoreSettings, StoreTls, open_store


@pytest.mark.parametrize("endpoint", ["", "host", ":2379", "https://host:2379", "host:", "host:x"])
def test_endpoints_are_host_and_port(endpoint: str) -> None:
    with pytest.raises(InvalidSettings, match="host:port"):
        StoreSettings(endpoints=(endpoint,))


@pytest.mark.parametrize("endpoint", ["etcd-0.etcd:2379", "127.0.0.1:1", "[::1]:2379"])
def test_good_endpoints(endpoint: str) -> None:
    assert StoreSettings(endpoints=(endpoint,)).endpoints == (endpoint,)


def test_a_key_needs_its_certificate() -> None:
    with pytest.raises(InvalidSettings, match="both"):
        StoreTls(authority=Path("a"), key=Path("k"))


def test_a_password_needs_its_user() -> None:
    with pytest.raises(InvalidSettings, match="user"):
        StoreSettings(endpoints=("a:1",), password="x")


async def test_without_endpoints_the_store_is_in_memory() -> None:
    async with open_store(StoreSettings()) as store:
        assert isinstance(store, MemoryStore)
        await store.put("a", b"")
