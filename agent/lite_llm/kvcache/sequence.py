"""One sequence's part of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lite_llm.kvcache.failures import NotResident, SequenceReleased

if TYPE_CHECKING:
    from lite_llm.kvcache.cache import KvCache


class CachedSequence:
    """Made by :meth:`KvCache.sequence` only. Any use after :meth:`release` raises
    :class:`SequenceReleased`."""

    def __init__(self, cache: KvCache, salt: bytes) -> None:
        self._cache = cache
        self._salt = salt
        self._tokens: list[int] = []
        self._is_released = False
        self.pages: list[list[int]] = [[] for _ in cache.groups]

    @property
    def num_computed(self) -> int:
        """Tokens whose keys and values are there: found at the beginning, then committed."""
        return len(self._tokens)

    @property
    def is_ready(self) -> bool:
        """False while pages come from disk: it can't be batched, and if one turns out to be
        corrupt ``num_computed`` shrinks. Without a disk always True."""
        return True

    @property
    def is_swapped_out(self) -> bool:
        """Between :meth:`swap_out` and :meth:`swap_in`."""
        return False

    def has_room(self, num_tokens: int) -> bool:
        """Whether the next ``num_tokens`` are reserved already."""
        self._require()
        return self.num_computed + num_tokens <= len(self.pages[0]) * self._cache.page_tokens

    def pages_to_reserve(self, num_tokens: int) -> int:
        """New pages that :meth:`reserve` would take."""
        self._require()
        needed = -(-(self.num_computed + num_tokens) // self._cache.page_tokens)
        return sum(max(0, needed - len(pages)) for pages in self.pages)

    def reserve(self, num_tokens: int) -> bool:
        """Room for the next ``num_tokens``, counted from ``num_computed``; may evict what no
        sequence uses. False where there is too little, and then nothing has changed."""
        wanted = self.pages_to_reserve(num_tokens)
        taken = self._cache.take(wanted)
        if taken is None:
            return False
        each = wanted // len(self.pages)
        for index, pages in enumerate(self.pages):
            pages.extend(taken[index * each : (index + 1) * each])
        return True

    def commit(self, tokens: Sequence[int]) -> None:
        """The keys and values of these next tokens are written; full pages can be found."""
        self._require()
        assert self.has_room(len(tokens))
        self._tokens.extend(tokens)

    def fork(self) -> CachedSequence:
        """A second sequence that shares what is computed; neither sees what the other adds."""
        self._require()
        other = self._cache.sequence((), salt=self._salt)
        if not other.reserve(self.num_computed):
            raise NotResident("the device has no room for a fork", where="kvcache")
        for mine, theirs in zip(self.pages, other.pages, strict=True):
            for source, target in zip(mine, theirs, strict=False):
                self._cache.copy(source, target)
        other._tokens = list(self._tokens)
        return other

    def swap_out(self) -> bool:
        """Move what only this sequence uses to host memory; False where that has no room."""
        self._require()
        return False

    def swap_in(self) -> bool:
        """Move it back; False where the device has no room."""
        self._require()
        return True

    def release(self) -> None:
        """Done, or preempted; may be called again. What was committed stays findable until its
        pages are needed."""
        if self._is_released:
            return
        self._is_released = True
        for pages in self.pages:
            self._cache.give(pages)
        self._cache.forget(self)

    def _require(self) -> None:
        if self._is_released:
            raise SequenceReleased("the sequence was released", where="kvcache")
