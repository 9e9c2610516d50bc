"""One sequence's part of the cache: its pages by group, and the table that kernels read.

A page that anybody else may read is never written: shared partial pages are copied first, and
full ones are not written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lite_llm.kvcache.failures import NotResident, SequenceReleased
from lite_llm.kvcache.tree import Node, Page, Place

if TYPE_CHECKING:
    from lite_llm.kvcache.cache import KvCache


class CachedSequence:
    """Made by :meth:`KvCache.sequence` and :meth:`fork` only. Any use after :meth:`release` raises
    :class:`SequenceReleased`."""

    def __init__(self, cache: KvCache, salt: bytes) -> None:
        self._cache = cache
        self._ledger = cache.ledger
        self.salt = salt
        self._page_tokens = cache.page_tokens
        self._windows = [group.window for group in cache.groups]
        self._sliding = [(g, w) for g, w in enumerate(self._windows) if w is not None]
        self._tokens: list[int] = []
        self._tip: Node | None = None  # of the tree: the last full page; None before the first
        self._num_writable = 0  # tokens up to which all pages are there and nobody else's
        self._num_dropped = [0] * len(self._windows)
        self._is_released = False
        self._is_swapped_out = False
        self.pages: list[list[Page | None]] = [[] for _ in self._windows]
        """By group, the first tokens' first; None behind a window."""
        self.tables = [np.zeros(8, dtype=np.int32) for _ in self._windows]
        """By group, the slots of ``pages``, and room for more."""

    @property
    def num_computed(self) -> int:
        """Tokens whose keys and values are there: found at the beginning, then committed."""
        return len(self._tokens)

    @property
    def num_shared_pages(self) -> int:
        """Of its pages, those that other sequences hold too and that will stay so: neither written
        to nor left behind by a window. For :class:`Prediction`."""
        num_full = self.num_computed // self._page_tokens
        return sum(
            page is not None and page.holders > 1
            for pages, window in zip(self.pages, self._windows, strict=True)
            if window is None
            for page in pages[:num_full]
        )

    @property
    def is_ready(self) -> bool:
        """False while pages come from disk: until then it can't be batched, and should one turn
        out to be corrupt, ``num_computed`` shrinks. Without a disk always True."""
        self._require()
        return self._cache.is_ready(self)

    @property
    def is_swapped_out(self) -> bool:
        """Between :meth:`swap_out` and :meth:`swap_in`."""
        return self._is_swapped_out

    def has_room(self, num_tokens: int) -> bool:
        """Whether the next ``num_tokens`` are reserved already, or are none."""
        if len(self._tokens) + num_tokens <= self._num_writable:
            return True
        self._require()
        return not num_tokens and not self._is_swapped_out

    def pages_to_reserve(self, num_tokens: int) -> int:
        """New pages that :meth:`reserve` would take."""
        self._require()
        if not num_tokens:
            return 0
        missing = max(0, self._missing(num_tokens)) * len(self.pages)
        return missing + len(self._shared_partial())

    def reserve(self, num_tokens: int) -> bool:
        """Room for the next ``num_tokens``, counted from ``num_computed``; may evict what no
        sequence uses. False where there is too little, and then nothing has changed. Raises
        :class:`NotResident` when swapped out."""
        self._require_resident()
        if self.has_room(num_tokens):
            return True
        shared = self._shared_partial()
        missing = [g for g in range(len(self.pages)) for _ in range(self._missing(num_tokens))]
        taken = self._cache.take([*shared, *missing])
        if taken is None:
            return False
        partial = self.num_computed // self._page_tokens
        for group, page in zip(shared, taken, strict=False):
            old = self.pages[group][partial]
            assert old is not None
            self._cache.copy(old, page)
            self._ledger.let_go([old])
            self._set(group, partial, page)
        for page in taken[len(shared) :]:
            self.pages[page.group].append(page)
            self._set(page.group, len(self.pages[page.group]) - 1, page)
        self._num_writable = len(self.pages[0]) * self._page_tokens
        return True

    def catch_up(self, tokens: Sequence[int]) -> int:
        """Take over what others have computed of ``tokens``, which begin with its own, since it
        began; returns ``num_computed``. Worth asking before each part of a long prompt: requests
        that come together often begin alike. What was reserved is given back if anything is found.
        Raises :class:`NotResident` while swapped out."""
        self._require_resident()
        self._cache.catch_up(self, tokens)
        return self.num_computed

    def commit(self, tokens: Sequence[int]) -> None:
        """The keys and values of these next tokens are written; full pages can now be found, and
        what no later token sees is let go. Raises :class:`NotResident` without room for them."""
        if not self.has_room(len(tokens)):
            raise NotResident(f"{len(tokens)} tokens were not reserved", where="kvcache")
        self._tokens.extend(tokens)
        if self.num_computed // self._page_tokens > (self._tip.depth if self._tip else 0):
            self._publish()
        self._drop_behind_windows()

    def fork(self) -> CachedSequence:
        """A second sequence that shares what is computed; neither sees what the other adds. Raises
        :class:`NotResident` while swapped out or waiting for the disk."""
        self._require_resident()
        if not self.is_ready:
            raise NotResident("the sequence waits for its pages", where="kvcache")
        other = CachedSequence(self._cache, self.salt)
        used = -(-self.num_computed // self._page_tokens)
        other._adopt(self._tokens, [pages[:used] for pages in self.pages], self._tip)
        self._num_writable = 0
        other._num_dropped = list(self._num_dropped)
        other._retable()
        self._cache.add(other)
        return other

    def swap_out(self) -> bool:
        """Move what no resident sequence uses to host memory, and give back what is reserved;
        False, and nothing has changed, where host memory has no room."""
        self._require()
        if self._is_swapped_out or not self.is_ready:
            return self._is_swapped_out
        used = -(-self.num_computed // self._page_tokens)
        kept = [page for pages in self.pages for page in pages[:used] if page is not None]
        if not self._cache.bring([p for p in kept if p.holders == p.num_out + 1], Place.HOST):
            return False
        self._ledger.let_go([p for pages in self.pages for p in pages[used:] if p is not None])
        for pages in self.pages:
            del pages[used:]
        self._set_swapped_out(True)
        return True

    def swap_in(self) -> bool:
        """Move it back; False, and nothing has changed, where the device has no room."""
        self._require()
        if not self._is_swapped_out:
            return True
        if not self._cache.bring(self.held(), Place.DEVICE):
            return False
        self._set_swapped_out(False)
        self._retable()
        return True

    def _set_swapped_out(self, is_out: bool) -> None:
        self._is_swapped_out = is_out
        self._num_writable = 0
        for page in self.held():
            page.num_out += 1 if is_out else -1

    def release(self) -> None:
        """Done, or preempted; may be called again. What was committed stays findable until its
        pages are needed."""
        if self._is_released:
            return
        if self._is_swapped_out:
            self._set_swapped_out(False)
        pages = self.held()
        self._ledger.let_go(pages)
        self._is_released = True
        self._num_writable = -1
        self.pages = [[] for _ in self._windows]
        self._tip = None
        self._cache.remove(self)
        # What only those swapped out still hold has no business on the device. If the host has no
        # room it stays, and they come back the cheaper.
        self._cache.bring([p for p in pages if p.holders and p.holders == p.num_out], Place.HOST)

    def held(self) -> list[Page]:
        """The pages that it holds."""
        return [page for page in chain.from_iterable(self.pages) if page is not None]

    def is_resident(self) -> bool:
        """Whether its pages are on the device, where its tables say."""
        return all(
            page is None or (page.place is Place.DEVICE and page.slot == slot)
            for pages, table in zip(self.pages, self.tables, strict=True)
            for page, slot in zip(pages, table.tolist(), strict=False)
        )

    def begin_with(
        self, tokens: Sequence[int], pages: list[list[Page | None]], tip: Node | None
    ) -> None:
        """The cache's: start from a prefix found, for which there is room, in place of whatever
        was there."""
        self._ledger.let_go(self.held())
        self._num_dropped = [0] * len(self._windows)
        self._adopt(tokens, pages, tip)
        came = self._cache.bring(self.held(), Place.DEVICE)
        assert came, "the prefix was chosen to fit"
        self._retable()

    def _adopt(
        self, tokens: Sequence[int], pages: list[list[Page | None]], tip: Node | None
    ) -> None:
        self._tokens, self.pages, self._tip = list(tokens), pages, tip
        self._num_writable = 0
        self._ledger.hold(self.held())

    def _missing(self, num_tokens: int) -> int:
        """Pages that each group lacks for the next ``num_tokens``; negative where it has more."""
        return -(-(len(self._tokens) + num_tokens) // self._page_tokens) - len(self.pages[0])

    def _shared_partial(self) -> list[int]:
        """Groups whose last page has room for the next token and readers besides this sequence."""
        partial, filled = divmod(len(self._tokens), self._page_tokens)
        if not filled:
            return []
        last = [pages[partial] for pages in self.pages]
        return [g for g, page in enumerate(last) if page is not None and page.holders > 1]

    def _publish(self) -> None:
        size, num_full = self._page_tokens, self.num_computed // self._page_tokens
        if self._tip is None or self._tip.is_detached:
            self._tip = self._ledger.tree.root(self.salt)
        for index in range(self._tip.depth, num_full):
            key = tuple(self._tokens[index * size : (index + 1) * size])
            pages = [pages[index] for pages in self.pages]
            self._tip = self._ledger.publish(self._tip, key, pages)
            for group, page in enumerate(pages):
                if page is not self.pages[group][index]:
                    assert page is not None
                    self._set(group, index, page)

    def _drop_behind_windows(self) -> None:
        # The last full page stays whatever the window: new ones are found through it.
        most = max(0, self.num_computed // self._page_tokens - 1)
        for group, window in self._sliding:
            behind = min(most, max(0, self.num_computed - window + 1) // self._page_tokens)
            pages = self.pages[group]
            dropped = pages[self._num_dropped[group] : behind]
            if dropped:
                self._ledger.let_go([page for page in dropped if page is not None])
                pages[self._num_dropped[group] : behind] = [None] * len(dropped)
                self._num_dropped[group] = behind

    def _set(self, group: int, index: int, page: Page) -> None:
        if index >= len(self.tables[group]):
            self.tables[group] = _grown(self.tables[group], index + 1)
        self.pages[group][index] = page
        self.tables[group][index] = page.slot

    def _retable(self) -> None:
        for group, pages in enumerate(self.pages):
            self.tables[group] = _grown(self.tables[group], len(pages))
            slots = [0 if page is None else page.slot for page in pages]
            self.tables[group][: len(pages)] = slots

    def _require(self) -> None:
        if self._is_released:
            raise SequenceReleased("the sequence was released", where="kvcache")

    def _require_resident(self) -> None:
        self._require()
        if self._is_swapped_out:
            raise NotResident("the sequence is swapped out", where="kvcache")


def _grown(table_N: NDArray[np.int32], least: int) -> NDArray[np.int32]:
    """At least doubled, so that appending costs the same per page on average."""
    if least <= len(table_N):
        return table_N
    grown_N = np.zeros(max(least, 2 * len(table_N)), dtype=np.int32)
    grown_N[: len(table_N)] = table_N
    return grown_N
