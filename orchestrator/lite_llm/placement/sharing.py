"""Frozen maps that share what is the same: a change of one entry copies a few of a thousand.

Copying a dictionary of a thousand is a thousand counted references, far apart in memory.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from itertools import chain
from typing import Any, TypeVar, overload

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

SMALL = 64  # entries; up to here a dictionary is copied in no time
SHARDS = 64  # a power of two


def changed(old: Mapping[K, V], key: K, value: V | None) -> Mapping[K, V]:
    """``old`` with ``value`` at ``key``, or without ``key`` if that is None."""
    return all_changed(old, ((key, value),))


def all_changed(old: Mapping[K, V], changes: Iterable[tuple[K, V | None]]) -> Mapping[K, V]:
    """As :func:`changed`, of several keys, no two the same."""
    if isinstance(old, SharedMap):
        return old.changed(changes)
    new = dict(old)
    for key, value in changes:
        if value is None:
            new.pop(key, None)
        else:
            new[key] = value
    return shared(new)


def shared(entries: Mapping[K, V]) -> Mapping[K, V]:
    """``entries``, which nobody changes any more, as a map that is cheap to change a copy of."""
    return entries if len(entries) <= SMALL else SharedMap.of(entries)


class SharedMap(Mapping[K, V]):
    """Dictionaries of about as many entries each; a changed map has all but one of them anew."""

    __slots__ = ("_num", "_shards")

    def __init__(self, shards: tuple[dict[K, V], ...], num: int) -> None:
        self._shards = shards
        self._num = num

    @classmethod
    def of(cls, entries: Mapping[K, V]) -> SharedMap[K, V]:
        """With these entries."""
        shards = tuple(dict[K, V]() for _ in range(SHARDS))
        for key, value in entries.items():
            shards[hash(key) % SHARDS][key] = value
        return cls(shards, len(entries))

    def changed(self, changes: Iterable[tuple[K, V | None]]) -> SharedMap[K, V]:
        """As :func:`all_changed`."""
        shards, num = list(self._shards), self._num
        for key, value in changes:
            at = hash(key) % SHARDS
            shard = shards[at]
            if shard is self._shards[at]:
                shard = shards[at] = dict(shard)
            num -= len(shard)
            if value is None:
                shard.pop(key, None)
            else:
                shard[key] = value
            num += len(shard)
        return SharedMap(tuple(shards), num)

    def __getitem__(self, key: K) -> V:
        return self._shards[hash(key) % SHARDS][key]

    @overload
    def get(self, key: K, /) -> V | None: ...
    @overload
    def get(self, key: K, /, default: V | D) -> V | D: ...
    def get(self, key: K, /, default: Any = None) -> Any:
        """As a dictionary's."""
        return self._shards[hash(key) % SHARDS].get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._shards[hash(key) % SHARDS]

    def __iter__(self) -> Iterator[K]:
        return chain.from_iterable(self._shards)

    def __len__(self) -> int:
        return self._num

    def values(self) -> ValuesView[V]:
        """As a dictionary's."""
        return _Values(self)

    def items(self) -> ItemsView[K, V]:
        """As a dictionary's."""
        return _Items(self)

    def shards(self) -> Iterable[dict[K, V]]:
        """What it is made of; not to be changed."""
        return self._shards


class _Values(ValuesView[V]):
    _mapping: SharedMap[Any, V]

    def __iter__(self) -> Iterator[V]:
        return chain.from_iterable(shard.values() for shard in self._mapping.shards())


class _Items(ItemsView[K, V]):
    _mapping: SharedMap[K, V]

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return chain.from_iterable(shard.items() for shard in self._mapping.shards())
