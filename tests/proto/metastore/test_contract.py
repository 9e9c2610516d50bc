"""What every store promises about entries and transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from lite_llm.contracts.errors import InvalidRequest
from lite_llm.metastore import (
    Absent,
    AtRevision,
    Compare,
    Delete,
    HasValue,
    Operation,
    Put,
    Store,
    TransactionResult,
)

pytestmark = pytest.mark.timeout(60)


async def test_an_entry_tells_its_history(store: Store, prefix: str) -> None:
    key = prefix + "a"
    assert await store.get(key) is None
    first = await store.put(key, b"one")
    second = await store.put(key, b"two")
    assert second == first + 1
    entry = await store.get(key)
    assert entry is not None
    assert (entry.key, entry.value, entry.lease_id) == (key, b"two", 0)
    assert (entry.create_revision, entry.mod_revision, entry.version) == (first, second, 2)


async def test_a_deleted_key_begins_anew(store: Store, prefix: str) -> None:
    key = prefix + "a"
    await store.put(key, b"old")
    await store.put(key, b"old")
    assert await store.delete(key) is True
    assert await store.get(key) is None
    revision = await store.put(key, b"new")
    entry = await store.get(key)
    assert entry is not None
    assert (entry.create_revision, entry.version) == (revision, 1)


async def test_deleting_nothing_changes_nothing(store: Store, prefix: str) -> None:
    before = await store.put(prefix + "a", b"")
    assert await store.delete(prefix + "absent") is False
    assert (await store.list_prefix(prefix)).revision == before


async def test_a_listing_is_the_prefix_sorted(store: Store, prefix: str) -> None:
    inside = ["a/", "a/b", "a/z", "a/é", "a/\U0010ffff"]
    for key in [*reversed(inside), "a", "a.", "a0", "b/"]:
        last = await store.put(prefix + key, b"")
    listing = await store.list_prefix(prefix + "a/")
    assert [entry.key for entry in listing.entries] == [prefix + key for key in inside]
    assert listing.revision == last


async def test_the_empty_prefix_is_everything(store: Store, prefix: str) -> None:
    await store.put(prefix + "a", b"")
    assert prefix + "a" in {entry.key for entry in (await store.list_prefix("")).entries}


@pytest.mark.parametrize("value", [b"", b"\0\xff", b"x" * (1 << 20)], ids=len)
async def test_values_are_any_bytes(store: Store, prefix: str, value: bytes) -> None:
    await store.put(prefix + "a", value)
    entry = await store.get(prefix + "a")
    assert entry is not None
    assert entry.value == value


async def test_a_transaction_is_one_revision(store: Store, prefix: str) -> None:
    await store.put(prefix + "gone", b"")
    result = await store.transact(
        when=[Absent(prefix + "a"), HasValue(prefix + "gone", b"")],
        then=[Put(prefix + "a", b"1"), Put(prefix + "b", b"2"), Delete(prefix + "gone")],
    )
    listing = await store.list_prefix(prefix)
    assert result == TransactionResult(True, listing.revision)
    assert [(entry.key, entry.mod_revision) for entry in listing.entries] == [
        (prefix + "a", result.revision),
        (prefix + "b", result.revision),
    ]


async def test_a_failed_transaction_does_nothing_and_says_what_it_found(
    store: Store, prefix: str
) -> None:
    revision = await store.put(prefix + "a", b"1")
    entry = await store.get(prefix + "a")
    result = await store.transact(
        when=[Absent(prefix + "b"), AtRevision(prefix + "a", revision - 1)],
        then=[Put(prefix + "a", b"2"), Put(prefix + "b", b"2")],
    )
    assert result == TransactionResult(False, revision, (None, entry))
    assert (await store.list_prefix(prefix)).entries == (entry,)


@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("kind", ["absent", "revision", "value", "missing"])
async def test_conditions(store: Store, prefix: str, kind: str, holds: bool) -> None:
    key = prefix + "a"
    revision = await store.put(key, b"1")
    compares: dict[str, tuple[Compare, Compare]] = {
        "absent": (Absent(prefix + "b"), Absent(key)),
        "revision": (AtRevision(key, revision), AtRevision(key, revision + 1)),
        "value": (HasValue(key, b"1"), HasValue(key, b"")),
        "missing": (AtRevision(prefix + "b", 0), HasValue(prefix + "b", b"")),
    }
    compare = compares[kind][0 if holds else 1]
    assert (await store.transact(when=[compare], then=[])).succeeded is holds


async def test_a_transaction_that_writes_nothing_takes_no_revision(
    store: Store, prefix: str
) -> None:
    before = await store.put(prefix + "a", b"")
    result = await store.transact(when=[], then=[Delete(prefix + "absent")])
    assert result == TransactionResult(True, before)


async def test_concurrent_swaps_lose_nothing(store: Store, prefix: str) -> None:
    key = prefix + "counter"
    await store.put(key, b"0")

    async def increment() -> None:
        while True:
            entry = await store.get(key)
            assert entry is not None
            new = b"%d" % (int(entry.value) + 1)
            swap = await store.transact(
                when=[AtRevision(key, entry.mod_revision)], then=[Put(key, new)]
            )
            if swap.succeeded:
                return

    await asyncio.gather(*(increment() for _ in range(20)))
    entry = await store.get(key)
    assert entry is not None
    assert (entry.value, entry.version) == (b"20", 21)


REFUSED: dict[str, tuple[Sequence[Compare], Sequence[Operation]]] = {
    "empty key": ([], [Put("", b"")]),
    "empty compared key": ([Absent("")], []),
    "key written twice": ([], [Put("a", b""), Delete("a")]),
    "too many": ([], [Put(f"{number}", b"") for number in range(129)]),
    "too large": ([], [Put("a", b"x" * (1 << 19)), Put("b", b"x" * ((1 << 19) + 1))]),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_bad_transactions_are_refused(store: Store, case: str) -> None:
    when, then = REFUSED[case]
    with pytest.raises(InvalidRequest):
        await store.transact(when=when, then=then)


async def test_empty_keys_are_refused_by_every_call(store: Store) -> None:
    with pytest.raises(InvalidRequest):
        await store.get("")
    with pytest.raises(InvalidRequest):
        await store.put("", b"")
    with pytest.raises(InvalidRequest):
        await store.delete("")
