"""How many pages running sequences will hold at most, before they do: for admission.

Every sequence gains a token at every step until its predicted end, then gives its pages back. So
usage grows between ends, and its peak is just before one of them. Nothing is stepped through: how
full last pages are is kept as a histogram, which says for any step how many new pages were begun.
After the allocator of Tokasaurus (Hazy Research, 2025), extended to sliding windows.

Legend: N sequences, J steps at which sequences end, B tokens of a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is expected of one sequence."""

    num_tokens: int
    """Known now, computed or not: they count as held at once."""
    num_more: int
    """Expected after these."""
    num_shared_pages: int = 0
    """Of those it holds, pages that others hold too."""


def most_held(
    num_tokens: int, window: int | None, page_tokens: int, *, step_tokens: int = 1
) -> int:
    """The most pages of one group that a sequence holds until it has ``num_tokens``, if no step
    reserves more than ``step_tokens``."""
    every = -(-num_tokens // page_tokens)
    if window is None:
        return every
    return min(every, _windowed(window, page_tokens, step_tokens))


def _windowed(window: int, page_tokens: int, step_tokens: int) -> int:
    # The last full page stays, however small the window, and both ends may lie within a page.
    seen = max(window, page_tokens + 1) - 1 + step_tokens
    return -(-seen // page_tokens) + 1


def peak_pages(
    predictions: Sequence[Prediction],
    *,
    windows: Sequence[int | None],
    page_tokens: int,
    num_shared_pages: int = 0,
) -> int:
    """The most pages held at any step from now, by sequences with a page table for each of
    ``windows``.

    ``num_shared_pages``: distinct pages that several of them hold; they count as held until all
    have ended. Takes time proportional to N * B.
    """
    if not predictions:
        return 0
    tokens_N = np.array([p.num_tokens for p in predictions], dtype=np.int64)
    end_N = np.array([p.num_more for p in predictions], dtype=np.int64)
    shared_N = np.array([p.num_shared_pages for p in predictions], dtype=np.int64)
    at_J = np.unique(end_N)
    used_J = np.full(len(at_J), num_shared_pages, dtype=np.int64)
    used_J -= shared_N.sum() - _before(end_N, shared_N, at_J)
    begin_N = np.full_like(end_N, -1)
    for window in windows:
        used_J += _pages(tokens_N, begin_N, page_tokens, at_J)
        used_J -= _pages(tokens_N, end_N, page_tokens, at_J)
        if window is not None:
            # Beyond its window, a sequence gives back a page for each that it begins.
            beyond_N = tokens_N - page_tokens * _windowed(window, page_tokens, 1)
            used_J -= _pages(beyond_N, -beyond_N, page_tokens, at_J)
            used_J += _pages(beyond_N, np.maximum(-beyond_N, end_N), page_tokens, at_J)
    return int(used_J.max())


def _before(key_N: Ints, value_N: Ints, at_J: Ints) -> Ints:
    """For each step, the sum of values whose key is below it."""
    order = np.argsort(key_N, kind="stable")
    sums = np.concatenate(([0], np.cumsum(value_N[order])))
    below_J: Ints = sums[np.searchsorted(key_N[order], at_J)]
    return below_J


def _pages(tokens_N: Ints, key_N: Ints, page_tokens: int, at_J: Ints) -> Ints:
    """For each step ``t``, the sum of ``ceil((tokens + t) / B)`` over those whose key is below."""
    order = np.argsort(key_N, kind="stable")
    full_N, filled_N = np.divmod(tokens_N[order], page_tokens)
    below_J = np.searchsorted(key_N[order], at_J)
    histogram_NB = np.zeros((len(order) + 1, page_tokens), dtype=np.int64)
    histogram_NB[np.arange(1, len(order) + 1), filled_N] = 1
    histogram_JB = np.cumsum(histogram_NB, axis=0)[below_J]
    full_J = np.concatenate(([0], np.cumsum(full_N)))[below_J]
    new_JB = -(-(np.arange(page_tokens) + at_J[:, None]) // page_tokens)
    pages_J: Ints = full_J + (histogram_JB * new_JB).sum(axis=1)
    return pages_J
