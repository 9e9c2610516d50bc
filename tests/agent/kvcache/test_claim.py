"""Which part of a found prefix is taken."""

from __future__ import annotations

import pytest

from lite_llm.kvcache.claim import Rates, best_length, window_pages
from lite_llm.kvcache.tree import Node, Page, Place

KINDS = {
    "d": (Place.DEVICE, 1),
    "i": (Place.DEVICE, 0),
    "h": (Place.HOST, 0),
    "k": (Place.DISK, 0),
}


def nodes_of(*groups: str) -> list[Node]:
    """A letter a page: on the device and held or idle, on the host, on disk; a dot: not there."""
    columns = list(zip(*groups, strict=True))
    return [
        Node(depth, (depth,), None, [_page(group, kind) for group, kind in enumerate(column)])
        for depth, column in enumerate(columns, start=1)
    ]


def _page(group: int, kind: str) -> Page | None:
    if kind == ".":
        return None
    place, holders = KINDS[kind]
    return Page(group, place, 0, holders)


@pytest.mark.parametrize(
    ("groups", "seen", "room", "length"),
    [
        (["dddd"], [None], 0, 4),
        (["dd.d"], [None], 9, 2),
        ([".ddd"], [None], 9, 0),
        (["ddhh"], [None], 2, 4),
        (["ddhh"], [None], 1, 3),
        (["ddhh"], [None], 0, 2),
        (["iihh"], [None], 4, 4),
        (["iihh"], [None], 3, 3),
        (["..dd"], [2], 0, 4),
        (["...d"], [2], 0, 0),
        (["dd.d"], [2], 0, 2),
        (["d..."], [2], 0, 1),
        (["...."], [0], 0, 4),
        (["dddd", "..dd"], [None, 2], 0, 4),
        (["dddd", "dd.d"], [None, 2], 0, 2),
        (["ddd.", "..dd"], [None, 1], 0, 3),
        (["dddd", "hhhh"], [None, 2], 1, 1),
        (["dddd", "hhhh"], [None, 2], 2, 4),
    ],
)
def test_the_longest_that_serves_and_fits(
    groups: list[str], seen: list[int | None], room: int, length: int
) -> None:
    nodes = nodes_of(*groups)
    assert best_length(nodes, seen, room=room, page_tokens=4, rates=Rates()) == length


@pytest.mark.parametrize(
    ("pages", "host", "disk", "length"),
    [
        ("dhhk", 3.0, 3.0, 4),
        ("dhhk", 4.0, 4.0, 4),
        ("dhhk", 5.0, 1.0, 4),
        ("dhhk", 6.0, 1.0, 1),
        ("dhhk", 1.0, 5.0, 3),
        ("dhdd", 9.0, 9.0, 4),
        ("dhdd", 13.0, 9.0, 1),
    ],
)
def test_brought_only_if_faster_than_computed(
    pages: str, host: float, disk: float, length: int
) -> None:
    rates = Rates(host_page_seconds=host, disk_page_seconds=disk, token_seconds=1.0)
    assert best_length(nodes_of(pages), [None], room=9, page_tokens=4, rates=rates) == length


@pytest.mark.parametrize(("window", "pages"), [(1, 0), (2, 1), (5, 1), (6, 2), (17, 4), (18, 5)])
def test_pages_that_a_window_reaches_back(window: int, pages: int) -> None:
    assert window_pages(window, 4) == pages
