"""Prefixes that have been computed: a tree with one page's tokens an edge, a root a salt.

Edges are compared token by token, so no two prefixes can be mistaken for each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum


class Place(IntEnum):
    """Where a page lies, the nearest first."""

    DEVICE = 0
    HOST = 1
    DISK = 2


@dataclass(eq=False, slots=True)
class Page:
    """Keys and values of one group's layers for the tokens of one page."""

    group: int
    place: Place
    slot: int
    holders: int = 1
    num_out: int = 0
    """Of the holders, those swapped out: they don't need it on the device."""
    node: Node | None = field(default=None, repr=False)
    """Where it can be found; None: nowhere (yet)."""
    last_use: int = 0
    is_arriving: bool = False
    """Being read from disk: its bytes may turn out to be corrupt."""
    is_lost: bool = False


@dataclass(eq=False, slots=True)
class Node:
    """A prefix of whole pages."""

    depth: int
    """Pages of the prefix; 0 at a root."""
    key: tuple[int, ...] | bytes
    """Tokens of the last page, or a root's salt."""
    parent: Node | None
    pages: list[Page | None]
    """The last page's, by group; None where it is not kept."""
    children: dict[tuple[int, ...], Node] = field(default_factory=dict, repr=False)
    is_detached: bool = False


class PrefixTree:
    """Nodes and edges alone; what lies in a node is its user's business."""

    def __init__(self, num_groups: int) -> None:
        self._num_groups = num_groups
        self._roots: dict[bytes, Node] = {}

    def root(self, salt: bytes) -> Node:
        """Made if there is none."""
        if salt not in self._roots:
            self._roots[salt] = Node(0, salt, None, [None] * self._num_groups)
        return self._roots[salt]

    def child(self, parent: Node, key: tuple[int, ...]) -> Node:
        """Made if there is none."""
        assert not parent.is_detached
        if key not in parent.children:
            node = Node(parent.depth + 1, key, parent, [None] * self._num_groups)
            parent.children[key] = node
        return parent.children[key]

    def walk(self, salt: bytes, tokens: Sequence[int], page_tokens: int, most: int) -> list[Node]:
        """Nodes of the known prefix of ``tokens``, at most ``most``, the first page's first."""
        nodes: list[Node] = []
        node = self._roots.get(salt)
        while node is not None and len(nodes) < most:
            begin = len(nodes) * page_tokens
            node = node.children.get(tuple(tokens[begin : begin + page_tokens]))
            if node is not None:
                nodes.append(node)
        return nodes

    def cut(self, node: Node) -> list[Node]:
        """Detach ``node`` and everything below it; returns them."""
        self._detach(node)
        cut = [node]
        for each in cut:
            each.is_detached = True
            cut.extend(each.children.values())
        return cut

    def prune(self, node: Node) -> None:
        """Detach ``node`` if it is empty, then its parent likewise."""
        while not node.children and not any(node.pages):
            parent = node.parent
            self._detach(node)
            if parent is None:
                return
            node = parent

    def _detach(self, node: Node) -> None:
        node.is_detached = True
        if node.parent is None:
            assert isinstance(node.key, bytes)
            self._roots.pop(node.key, None)
        else:
            assert isinstance(node.key, tuple)
            node.parent.children.pop(node.key, None)

    def nodes(self) -> Iterator[Node]:
        """All of them."""
        stack = list(self._roots.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())
