"""Which page lies where, who holds it and what must move: calls in, moves out, no bytes touched.

A page is in exactly one place: on the device, in host memory or on disk. It is *held* by sequences,
or *idle*: held by none and kept because the prefix tree can find it. Idle pages make room for
others, the longest unused first, each going down one place or, from the last, out of the tree.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count

from lite_llm.kvcache.failures import PageLeaked
from lite_llm.kvcache.tree import Node, Page, Place, PrefixTree


@dataclass(frozen=True, slots=True)
class Move:
    """Copy a page's bytes; what lay at ``target`` is void, and ``source`` is free afterwards."""

    page: Page
    source: tuple[Place, int]
    target: tuple[Place, int]


class _Slots:
    """One place: its free slots, and its idle pages by last use."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        # In turn: what was freed last may still be read by a move under way.
        self.free = deque(range(capacity))
        self.num_idle = 0
        self._heap: list[tuple[int, int, int, int, Page]] = []
        self._serial = count()

    @property
    def room(self) -> int:
        return len(self.free) + self.num_idle

    def add_idle(self, page: Page) -> None:
        assert page.node is not None
        self.num_idle += 1
        # Deeper pages first: without its beginning a prefix can't be found.
        entry = (page.last_use, -page.node.depth, page.slot, next(self._serial), page)
        heappush(self._heap, entry)

    def oldest(self, place: Place) -> Page:
        while True:
            last_use, _, slot, _, page = self._heap[0]
            if _is_idle_at(page, last_use, place, slot):
                return page
            heappop(self._heap)

    def compact(self, place: Place) -> None:
        """Entries that lost their meaning are dropped before they outnumber the others."""
        if len(self._heap) > 64 + 2 * self.num_idle:
            self._heap = [e for e in self._heap if _is_idle_at(e[4], e[0], place, e[2])]
            heapify(self._heap)


def _is_idle_at(page: Page, last_use: int, place: Place, slot: int) -> bool:
    return (
        page.node is not None
        and not page.holders
        and (page.place, page.slot, page.last_use) == (place, slot, last_use)
    )


class Ledger:
    """Moves gather in ``moves``, to be carried out in their order by whoever calls."""

    def __init__(self, capacity: Sequence[int], windows: Sequence[int | None]) -> None:
        """``capacity``: slots of each :class:`Place`; ``windows``: of each group of layers."""
        self.moves: list[Move] = []
        self.tree = PrefixTree(len(windows))
        self.num_shared = 0
        """Pages with several holders, wherever they are."""
        self._windows = windows
        self._slots = [_Slots(number) for number in capacity]
        self._clock = 0

    def num_free(self, place: Place) -> int:
        """Slots that nothing lies in."""
        return len(self._slots[place].free)

    def num_idle(self, place: Place) -> int:
        """Pages that no sequence holds."""
        return self._slots[place].num_idle

    def take(self, groups: Sequence[int]) -> list[Page] | None:
        """A new page on the device for each of these groups, held once; None if they don't fit."""
        if len(groups) > self._slots[Place.DEVICE].room:
            return None
        return [Page(group, Place.DEVICE, self._slot(Place.DEVICE)) for group in groups]

    def bring(self, pages: Sequence[Page], place: Place) -> bool:
        """Move held pages to ``place``; False, and nothing has changed, if they don't fit."""
        movers = [page for page in pages if page.place is not place]
        if len(movers) > self._slots[place].room:
            return False
        for page in movers:
            assert page.holders
            self._move(page, place, self._slot(place))
        return True

    def hold(self, pages: Iterable[Page]) -> None:
        """One more holder each."""
        for page in pages:
            if not page.holders:
                self._slots[page.place].num_idle -= 1
            page.holders += 1
            self.num_shared += page.holders == 2

    def let_go(self, pages: Iterable[Page]) -> None:
        """One holder less each: those without any are idle, or free if the tree has them not."""
        self._clock += 1
        for page in pages:
            assert page.holders, "let go twice"
            page.holders -= 1
            self.num_shared -= page.holders == 1
            if not page.holders:
                self._rest(page)
        for place in Place:
            self._slots[place].compact(place)

    def publish(self, parent: Node, key: tuple[int, ...], pages: list[Page | None]) -> Node:
        """The tokens ``key`` after ``parent`` can be found, in ``pages``, all held by the caller.

        Where they could be found before, pages already on the device stay, and the caller's are
        exchanged for them in ``pages``.
        """
        node = self.tree.child(parent, key)
        for group, mine in enumerate(pages):
            theirs = node.pages[group]
            if mine is None or mine is theirs:
                continue
            if theirs is not None and theirs.place is Place.DEVICE and not theirs.is_arriving:
                self.hold([theirs])
                self.let_go([mine])
                pages[group] = theirs
                continue
            if theirs is not None:
                self._unlink(theirs)
            node.pages[group], mine.node = mine, node
        return node

    def lose(self, page: Page) -> None:
        """Its bytes are gone: whoever holds it keeps it, and nobody finds it again."""
        page.is_lost = True
        self._drop(page)

    def keep_free(self, num_pages: int) -> None:
        """Move idle pages out ahead, so that nobody waits for the copies when room is needed."""
        slots = self._slots[Place.DEVICE]
        while len(slots.free) < num_pages and slots.num_idle and self._below(Place.DEVICE):
            self._evict(Place.DEVICE)

    def _rest(self, page: Page) -> None:
        if page.node is None:
            self._slots[page.place].free.append(page.slot)
        else:
            page.last_use = self._clock
            self._slots[page.place].add_idle(page)

    def _slot(self, place: Place) -> int:
        while not self._slots[place].free:
            self._evict(place)
        return self._slots[place].free.popleft()

    def _evict(self, place: Place) -> None:
        page = self._slots[place].oldest(place)
        below = self._below(place)
        if below is None:
            self._drop(page)
            return
        slot = self._slot(below)
        if page.node is None:  # it was found only through what has just made room for it
            self._slots[below].free.append(slot)
        else:
            self._move(page, below, slot)

    def _below(self, place: Place) -> Place | None:
        return next((p for p in Place if p > place and self._slots[p].room), None)

    def _move(self, page: Page, place: Place, slot: int) -> None:
        source = (page.place, page.slot)
        page.is_arriving |= page.place is Place.DISK
        self.moves.append(Move(page, source, (place, slot)))
        self._slots[page.place].free.append(page.slot)
        if not page.holders:
            self._slots[page.place].num_idle -= 1
        page.place, page.slot = place, slot
        if not page.holders:
            self._slots[place].add_idle(page)

    def _drop(self, page: Page) -> None:
        """Out of the tree; with it, what can't be found without it."""
        node = page.node
        if node is None:
            return
        if self._windows[page.group] is None:
            parent = node.parent
            for below in self.tree.cut(node):
                for other in below.pages:
                    if other is not None:
                        self._unlink(other)
            if parent is not None:
                self.tree.prune(parent)
        else:
            self._unlink(page)
            self.tree.prune(node)

    def _unlink(self, page: Page) -> None:
        assert page.node is not None
        page.node.pages[page.group], page.node = None, None
        if not page.holders:
            self._slots[page.place].num_idle -= 1
            self._slots[page.place].free.append(page.slot)

    def check(self, held: Iterable[Page]) -> None:
        """``held``: each page once for each of its holders. Raises :class:`PageLeaked`."""
        holders = Counter(held)
        cached = list(self._cached())
        pages = {*holders, *cached}
        for page in pages:
            _require(page.holders == holders[page], f"{page} is held {holders[page]} times")
        shared = sum(page.holders > 1 for page in pages)
        _require(shared == self.num_shared, f"{shared} are shared, not {self.num_shared}")
        for place in Place:
            slots = self._slots[place]
            here = [page for page in pages if page.place is place]
            used = sorted([*slots.free, *(page.slot for page in here)])
            _require(used == list(range(slots.capacity)), f"{place.name}: slots lost or used twice")
            idle = sum(not page.holders for page in here)
            _require(idle == slots.num_idle, f"{place.name}: {idle} idle, not {slots.num_idle}")

    def _cached(self) -> Iterator[Page]:
        for node in self.tree.nodes():
            _require(node.children or any(node.pages), f"{node} finds nothing")
            for group, page in enumerate(node.pages):
                if page is not None:
                    _require(page.node is node and page.group == group, f"{page} is misfiled")
                    yield page


def _require(holds: object, message: str) -> None:
    if not holds:
        raise PageLeaked(message, where="kvcache")
