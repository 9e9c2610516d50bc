"""The arena's book-keeping: nothing lost, nothing twice, little wasted."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.tiers.extents import (
    GRANULE,
    Extents,
    Held,
    Move,
    aligned_down,
    aligned_up,
    compaction,
)

PAGES = 64
sizes = st.integers(1, 20).map(lambda pages: pages * GRANULE)


@pytest.mark.parametrize(("given", "up", "down"), [(0, 0, 0), (1, 4096, 0), (4096, 4096, 4096)])
def test_alignment(given: int, up: int, down: int) -> None:
    assert (aligned_up(given), aligned_down(given)) == (up, down)


def test_the_best_fit_leaves_the_large_gap_whole() -> None:
    extents = Extents(16 * GRANULE)
    assert extents.take(16 * GRANULE) == 0
    extents.give(0, 8 * GRANULE)
    extents.give(12 * GRANULE, 2 * GRANULE)
    assert extents.take(2 * GRANULE) == 12 * GRANULE
    assert extents.largest == 8 * GRANULE


def test_freeing_twice_is_noticed() -> None:
    extents = Extents(4 * GRANULE)
    offset = extents.take(GRANULE)
    assert offset is not None
    extents.give(offset, GRANULE)
    with pytest.raises(AssertionError, match="twice"):
        extents.give(offset, GRANULE)


@given(st.lists(st.one_of(sizes, st.none()), max_size=80), st.randoms(use_true_random=False))
def test_bytes_are_conserved_and_extents_never_overlap(
    steps: list[int | None], chance: random.Random
) -> None:
    extents, held = Extents(PAGES * GRANULE), dict[int, int]()
    for size in steps:
        if size is None and held:
            offset = chance.choice(sorted(held))
            extents.give(offset, held.pop(offset))
        elif size is not None:
            offset_or_none = extents.take(size)
            if offset_or_none is None:
                assert extents.largest < size
            else:
                held[offset_or_none] = size
        assert extents.free_bytes + sum(held.values()) == PAGES * GRANULE
        spans = sorted(held.items())
        assert all(a + n <= b for (a, n), (b, _) in pairwise(spans))
    for offset, size in held.items():
        extents.give(offset, size)
    assert extents.largest == PAGES * GRANULE


def test_compaction_moves_what_it_may_around_what_it_may_not() -> None:
    held = [Held(8, 4), Held(20, 4, movable=False), Held(30, 10), Held(2, 3)]
    assert compaction(held) == [Move(2, 0, 3), Move(8, 3, 4), Move(30, 24, 10)]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9), st.booleans()), max_size=30))
def test_compaction_keeps_every_byte(raw: list[tuple[int, int, bool]]) -> None:
    held, end = [], 0
    for gap, length, movable in raw:
        held.append(Held(end + gap, length, movable))
        end += gap + length
    memory = [-1] * end
    for number, extent in enumerate(held):
        memory[extent.offset : extent.offset + extent.length] = [number] * extent.length
    place = {extent.offset: extent.offset for extent in held}
    for move in compaction(held):
        memory[move.target : move.target + move.length] = memory[
            move.source : move.source + move.length
        ]
        place[move.source] = move.target
    for number, extent in enumerate(held):
        at = place[extent.offset]
        assert memory[at : at + extent.length] == [number] * extent.length
        assert extent.movable or at == extent.offset


def test_churn_of_realistic_records_wastes_less_than_four_percent() -> None:
    """Experts and layers of three model families in 4 GiB, replaced at random for a while.

    Waste is what stays free after compaction though a record of the smallest size waits, plus the
    rounding to pages.
    """
    chance = random.Random(7)
    families = [(9_437_184, 96), (20_971_520 + 4096, 60), (2_359_296 + 512, 200)]
    extents, held, asked = Extents(4 << 30), dict[int, int](), dict[int, int]()
    rounding = 0
    for _ in range(1500):
        num_bytes = chance.choices([size for size, _ in families], [n for _, n in families])[0]
        offset = extents.take(aligned_up(num_bytes))
        while offset is None and extents.free_bytes < aligned_up(num_bytes):
            victim = chance.choice(list(held))
            extents.give(victim, held.pop(victim))
            del asked[victim]
            offset = extents.take(aligned_up(num_bytes))
        if offset is None:
            # Free in sum, but not in one piece: what the arena compacts.
            lengths, sizes_asked = list(held.values()), list(asked.values())
            extents = Extents(4 << 30)
            placed = [extents.take(length) for length in lengths]
            held = {at: n for at, n in zip(placed, lengths, strict=True) if at is not None}
            asked = {at: n for at, n in zip(placed, sizes_asked, strict=True) if at is not None}
            offset = extents.take(aligned_up(num_bytes))
        assert offset is not None
        held[offset], asked[offset] = aligned_up(num_bytes), num_bytes
        rounding = sum(held.values()) - sum(asked.values())
    waste = extents.free_bytes + rounding
    assert waste / (4 << 30) < 0.04
