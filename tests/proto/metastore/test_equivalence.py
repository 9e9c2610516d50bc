"""Memory answers and tells watchers what etcd does, whatever the sequence of transactions."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_llm.metastore import (
    Absent,
    AtRevision,
    Compare,
    Delete,
    Deleted,
    Entry,
    HasValue,
    MemoryStore,
    Operation,
    Put,
    Store,
    Written,
    open_store,
)
from lite_llm.testing.etcd import EtcdServer

KEYS = st.sampled_from(["a", "a/", "a/b", "b", "ü"])
VALUES = st.sampled_from([b"", b"1", b"2"])


@dataclass(frozen=True)
class Step:
    """A transaction in which revisions are counted from the beginning of the test."""

    when: tuple[Compare, ...]
    then: tuple[Operation, ...]


STEPS = st.builds(
    Step,
    when=st.lists(
        st.builds(Absent, KEYS)
        | st.builds(AtRevision, KEYS, st.integers(0, 8))
        | st.builds(HasValue, KEYS, VALUES),
        max_size=2,
    ).map(tuple),
    then=st.lists(
        st.builds(Put, KEYS, VALUES) | st.builds(Delete, KEYS),
        max_size=3,
        unique_by=lambda operation: operation.key,
    ).map(tuple),
)


class Relative:
    """A store seen through a prefix, with revisions counted from ``start``."""

    def __init__(self, store: Store, prefix: str, start: int) -> None:
        self._store, self._prefix, self._start = store, prefix, start

    def _entry(self, entry: Entry | None) -> Entry | None:
        if entry is None:
            return None
        return replace(
            entry,
            key=entry.key.removeprefix(self._prefix),
            create_revision=entry.create_revision - self._start,
            mod_revision=entry.mod_revision - self._start,
        )

    def _compare(self, compare: Compare) -> Compare:
        moved = replace(compare, key=self._prefix + compare.key)
        if isinstance(moved, AtRevision) and moved.mod_revision:
            return replace(moved, mod_revision=moved.mod_revision + self._start)
        return moved

    async def take(self, step: Step) -> object:
        result = await self._store.transact(
            when=[self._compare(compare) for compare in step.when],
            then=[replace(operation, key=self._prefix + operation.key) for operation in step.then],
        )
        found = [self._entry(entry) for entry in result.found]
        return result.succeeded, result.revision - self._start, found

    async def listing(self, prefix: str) -> object:
        listing = await self._store.list_prefix(self._prefix + prefix)
        return [self._entry(entry) for entry in listing.entries], listing.revision - self._start

    async def events(self, prefix: str) -> object:
        """All events below ``prefix``."""
        last = await self._store.put(self._prefix + prefix + "end", b"")
        seen: list[tuple[int, Entry | str | None]] = []
        async with self._store.watch(
            self._prefix + prefix, from_revision=self._start + 1
        ) as events:
            async for event in events:
                if event.revision == last:
                    break
                match event:
                    case Written(entry):
                        seen.append((event.revision - self._start, self._entry(entry)))
                    case Deleted(key):
                        seen.append((event.revision - self._start, key.removeprefix(self._prefix)))
        return seen


@pytest.fixture(scope="module")
def etcd_loop(etcd: EtcdServer) -> Iterator[tuple[asyncio.Runner, Store]]:
    """One store for all examples: opening one takes longer than an example."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        store = runner.run(stack.enter_async_context(open_store(etcd.settings())))
        yield runner, store
        runner.run(stack.aclose())


async def told(store: Store, steps: list[Step], below: str) -> list[object]:
    """What a store answers to ``steps``, then lists and tells a watcher ``below`` a prefix."""
    prefix = f"/{uuid.uuid4().hex}/"
    relative = Relative(store, prefix, (await store.list_prefix(prefix)).revision)
    answers = [await relative.take(step) for step in steps]
    return [*answers, await relative.listing(below), await relative.events(below)]


@settings(max_examples=40)
@given(steps=st.lists(STEPS, max_size=12), below=st.sampled_from(["", "a", "a/"]))
def test_memory_does_what_etcd_does(
    etcd_loop: tuple[asyncio.Runner, Store], steps: list[Step], below: str
) -> None:
    runner, etcd_store = etcd_loop
    in_memory = runner.run(told(MemoryStore(), steps, below))
    assert in_memory == runner.run(told(etcd_store, steps, below))
