"""Decisions alone: calls in, moves out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lite_llm.kvcache import PageLeaked
from lite_llm.kvcache.ledger import Ledger, Move
from lite_llm.kvcache.tree import Node, Page, Place

D, H, K = Place


def prefix(ledger: Ledger, *keys: int, salt: bytes = b"") -> list[Page]:
    """New pages of one group that can be found as these tokens, one a page; held."""
    pages = ledger.take([0] * len(keys))
    assert pages is not None
    node = ledger.tree.root(salt)
    for key, page in zip(keys, pages, strict=True):
        node = ledger.publish(node, (key,), [page])
    return pages


def moves_of(ledger: Ledger) -> list[tuple[tuple[Place, int], tuple[Place, int]]]:
    moves, ledger.moves = [(move.source, move.target) for move in ledger.moves], []
    return moves


def test_the_longest_unused_makes_room_its_end_first() -> None:
    ledger = Ledger([4, 3, 0], [None])
    old, new = prefix(ledger, 1, 2), prefix(ledger, 5, 6)
    ledger.let_go(new)
    ledger.let_go(old)
    ledger.hold(new)
    ledger.let_go(new)
    assert ledger.take([0]) is not None
    assert moves_of(ledger) == [((D, 1), (H, 0))]
    assert ledger.take([0, 0]) is not None
    assert moves_of(ledger) == [((D, 0), (H, 1)), ((D, 3), (H, 2))]


def test_pages_go_down_a_place_at_a_time_and_out_of_the_last() -> None:
    ledger = Ledger([1, 1, 1], [None])
    seen = []
    for key in range(4):
        (page,) = prefix(ledger, key)
        ledger.let_go([page])
        seen.append(moves_of(ledger))
        ledger.check([])
    assert seen == [
        [],
        [((D, 0), (H, 0))],
        [((H, 0), (K, 0)), ((D, 0), (H, 0))],
        [((H, 0), (K, 0)), ((D, 0), (H, 0))],
    ]
    assert [bool(ledger.tree.walk(b"", [key], 1, 1)) for key in range(4)] == [
        False,
        True,
        True,
        True,
    ]


def test_a_full_host_is_passed_by() -> None:
    ledger = Ledger([2, 1, 1], [None])
    kept = prefix(ledger, 1)
    assert ledger.bring(kept, H)
    moves_of(ledger)
    ledger.let_go(prefix(ledger, 2))
    assert ledger.take([0, 0]) is not None
    assert moves_of(ledger) == [((D, 1), (K, 0))]


def test_nothing_moves_if_it_does_not_fit() -> None:
    ledger = Ledger([3, 1, 0], [None])
    held = prefix(ledger, 1, 2)
    ledger.let_go(prefix(ledger, 7))
    assert ledger.take([0, 0]) is None
    assert not ledger.bring(held, H)
    assert ledger.moves == []
    assert (ledger.num_free(D), ledger.num_idle(D)) == (0, 1)


def test_with_a_beginning_goes_what_follows() -> None:
    """Else pages would lie there that nobody can find."""
    ledger = Ledger([3, 0, 0], [None])
    first, second, third = prefix(ledger, 1, 2, 3)
    ledger.let_go([first, second, third])
    ledger.hold([third])  # as if by a sequence that lost the others
    taken = ledger.take([0])
    assert taken is not None
    assert taken[0].slot == second.slot
    assert third.node is None
    assert [node.pages for node in ledger.tree.walk(b"", [1, 2, 3], 1, 3)] == [[first]]
    ledger.check([third, *taken])


def test_a_windows_page_goes_alone() -> None:
    ledger = Ledger([4, 0, 0], [None, 8])
    pages = ledger.take([0, 1, 0, 1])
    assert pages is not None
    node = ledger.publish(ledger.tree.root(b""), (1,), list[Page | None](pages[:2]))
    ledger.publish(node, (2,), list[Page | None](pages[2:]))
    ledger.let_go([pages[1]])
    assert ledger.take([0]) is not None
    found = ledger.tree.walk(b"", [1, 2], 1, 2)
    assert [each.pages for each in found] == [[pages[0], None], [pages[2], pages[3]]]


def test_the_same_computed_twice_is_kept_once() -> None:
    ledger = Ledger([2, 0, 0], [None])
    root = ledger.tree.root(b"")
    pages = ledger.take([0, 0])
    assert pages is not None
    mine, twice = pages
    ledger.publish(root, (1,), [mine])
    exchanged: list[Page | None] = [twice]
    ledger.publish(root, (1,), exchanged)
    assert exchanged == [mine]
    assert (mine.holders, ledger.num_free(D)) == (2, 1)
    ledger.check([mine, mine])


def test_what_is_not_on_the_device_is_replaced_by_what_is() -> None:
    ledger = Ledger([1, 1, 0], [None])
    (cold,) = prefix(ledger, 1)
    ledger.let_go([cold])
    mine = ledger.take([0])
    assert mine is not None
    assert cold.place is H
    exchanged = list[Page | None](mine)
    ledger.publish(ledger.tree.root(b""), (1,), exchanged)
    assert exchanged == mine
    assert ledger.num_free(H) == 1
    ledger.check(mine)


def test_moves_ahead_need_a_place_to_go() -> None:
    for host, free in ((0, 0), (3, 2)):
        ledger = Ledger([3, host, 0], [None])
        ledger.let_go(prefix(ledger, 1, 2, 3))
        ledger.keep_free(2)
        assert ledger.num_free(D) == free


def test_who_has_nothing_left_is_forgotten() -> None:
    """A tenant's root goes with its last page."""
    ledger = Ledger([2, 0, 0], [None])
    for number in range(5):
        pages = ledger.take([0, 0])
        assert pages is not None
        root = ledger.tree.root(str(number).encode())
        ledger.publish(ledger.publish(root, (1,), [pages[0]]), (2,), [pages[1]])
        ledger.let_go(pages)
        assert [node.key for node in ledger.tree.nodes() if node.parent is None] == [root.key]
    ledger.check([])


def test_letting_go_twice_is_noticed() -> None:
    ledger = Ledger([1, 0, 0], [None])
    pages = prefix(ledger, 1)
    ledger.let_go(pages)
    with pytest.raises(AssertionError, match="twice"):
        ledger.let_go(pages)


def lose_a_slot(ledger: Ledger, page: Page) -> None:
    page.slot = 1


def miscount(ledger: Ledger, page: Page) -> None:
    page.holders += 1


def misfile(ledger: Ledger, page: Page) -> None:
    page.node = Node(1, (9,), None, [page])


def move_unseen(ledger: Ledger, page: Page) -> None:
    ledger.moves.append(Move(page, (D, page.slot), (H, 0)))
    page.place = H


@pytest.mark.parametrize("spoil", [lose_a_slot, miscount, misfile, move_unseen])
def test_what_is_wrong_is_found(spoil: Callable[[Ledger, Page], None]) -> None:
    ledger = Ledger([3, 1, 0], [None])
    (page,) = prefix(ledger, 1)
    ledger.check([page])
    with pytest.raises(PageLeaked):
        ledger.check([])
    spoil(ledger, page)
    with pytest.raises(PageLeaked):
        ledger.check([page])
