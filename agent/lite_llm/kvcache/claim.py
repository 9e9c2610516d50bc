"""How much of a found prefix is worth having: a decision about numbers, nothing moves here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from lite_llm.kvcache.tree import Node, Page, Place


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What bringing and computing cost, measured."""

    host_page_seconds: float = 0.0
    disk_page_seconds: float = 0.0
    """To bring one page to the device."""
    token_seconds: float = 1.0
    """To compute one token. The defaults bring whatever is found."""


def window_pages(window: int, page_tokens: int) -> int:
    """Whole pages before a token at a page's begin that it may see."""
    return -(-(window - 1) // page_tokens)


def best_length(
    nodes: Sequence[Node],
    num_seen: Sequence[int | None],
    *,
    room: int,
    page_tokens: int,
    rates: Rates,
) -> int:
    """Of the prefixes that ``nodes`` make, the number of pages of the one that costs least.

    A prefix serves only if each group has what its next token sees: the last ``num_seen[group]``
    pages, or all where that is None. Pages that are not on the device need room there: ``room``
    counts free and idle pages, and a prefix's own idle pages can't make room for it. Costs are
    bringing the prefix and computing the tokens of the others; of equal ones, the longest.
    """
    groups = [_Group([node.pages[g] for node in nodes], seen) for g, seen in enumerate(num_seen)]
    best, least = 0, len(nodes) * page_tokens * rates.token_seconds
    for length in range(1, len(nodes) + 1):
        if not all(group.serves(length) for group in groups):
            continue
        host, disk, idle = (
            sum(kind) for kind in zip(*(group.counts(length) for group in groups), strict=True)
        )
        if host + disk + idle > room:
            continue
        seconds = (
            host * rates.host_page_seconds
            + disk * rates.disk_page_seconds
            + (len(nodes) - length) * page_tokens * rates.token_seconds
        )
        if seconds <= least:
            best, least = length, seconds
    return best


class _Group:
    """One group's pages along a prefix, counted once so that each length costs the same."""

    def __init__(self, pages: Sequence[Page | None], seen: int | None) -> None:
        self._seen = seen
        self._missing = list(accumulate((page is None for page in pages), initial=0))
        self._host = list(accumulate((_is_at(p, Place.HOST) for p in pages), initial=0))
        self._disk = list(accumulate((_is_at(p, Place.DISK) for p in pages), initial=0))
        self._idle = list(accumulate((_is_idle_here(p) for p in pages), initial=0))

    def _begin(self, length: int) -> int:
        return 0 if self._seen is None else max(0, length - self._seen)

    def serves(self, length: int) -> bool:
        return self._missing[length] == self._missing[self._begin(length)]

    def counts(self, length: int) -> tuple[int, int, int]:
        """Pages in host memory, on disk, and idle on the device."""
        begin = self._begin(length)
        return (
            self._host[length] - self._host[begin],
            self._disk[length] - self._disk[begin],
            self._idle[length] - self._idle[begin],
        )


def _is_at(page: Page | None, place: Place) -> bool:
    return page is not None and page.place is place


def _is_idle_here(page: Page | None) -> bool:
    return page is not None and page.place is Place.DEVICE and not page.holders
