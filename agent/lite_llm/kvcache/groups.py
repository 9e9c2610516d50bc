"""Layers in groups whose pages are of one size, so that any free page serves any group.

Layers with one window are kept and dropped together. Where a model mixes windows (Gemma, GPT-OSS),
the larger set of layers is cut into several groups, so that all pages hold about as many bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

from lite_llm.kvcache.layout import KvLayout, LayerKv

ALIGNMENT: Final = 256
"""Bytes. Where a layer's part of a page begins: the widest vector load, and CUDA's own border."""

_MOST_CUTS: Final = 4  # tried of each set of layers
_WASTE: Final = 0.125  # more than the least that is accepted for fewer groups: each costs host time


@dataclass(frozen=True)
class LayerPart:
    """Where a layer's keys and values lie in a page, in elements from its begin."""

    keys_at: int
    values_at: int
    """Equal to ``keys_at`` where values lie within keys."""


@dataclass(frozen=True)
class Group:
    """Layers whose keys and values of the same tokens lie in one page, keys before values."""

    window: int | None
    layers: tuple[int, ...]
    """Their numbers in the model, ascending."""
    parts: tuple[LayerPart, ...]
    """One a layer of ``layers``."""
    elements: int
    """Of a page."""


def group_layers(layout: KvLayout, page_tokens: int) -> tuple[Group, ...]:
    """Groups in the order of their windows, all of them last: few, and little memory wasted.

    A page takes as many bytes as the largest group's, so the waste is what smaller ones leave.
    """
    windows = sorted({layer.window for layer in layout.layers}, key=lambda w: (w is None, w or 0))
    sets = {
        window: [i for i, layer in enumerate(layout.layers) if layer.window == window]
        for window in windows
    }
    parts = {
        window: [_part_elements(layout, layout.layers[i], page_tokens) for i in layers]
        for window, layers in sets.items()
    }
    plans = [
        _cut(parts, sum(sizes) / cuts)
        for sizes in parts.values()
        for cuts in range(1, _MOST_CUTS + 1)
    ]
    enough = (1 + _WASTE) * min(_memory(parts, cuts) for cuts in plans)
    plan = min(
        (cuts for cuts in plans if _memory(parts, cuts) <= enough),
        key=lambda cuts: (sum(map(len, cuts.values())), _memory(parts, cuts)),
    )
    return tuple(
        _group(layout, window, sets[window][begin:end], page_tokens)
        for window, ranges in plan.items()
        for begin, end in ranges
    )


Cuts = dict[int | None, list[tuple[int, int]]]


def _cut(parts: dict[int | None, list[int]], target: float) -> Cuts:
    cuts: Cuts = {}
    for window, sizes in parts.items():
        wanted = min(len(sizes), max(1, round(sum(sizes) / target)))
        borders = [len(sizes) * i // wanted for i in range(wanted + 1)]
        cuts[window] = list(pairwise(borders))
    return cuts


def _memory(parts: dict[int | None, list[int]], cuts: Cuts) -> int:
    pages = [sum(parts[w][begin:end]) for w, ranges in cuts.items() for begin, end in ranges]
    return max(pages) * len(pages)


def _part_elements(layout: KvLayout, layer: LayerKv, page_tokens: int) -> int:
    return sum(_keys_and_values(layout, layer, page_tokens))


def _keys_and_values(layout: KvLayout, layer: LayerKv, page_tokens: int) -> tuple[int, int]:
    per_line = max(1, ALIGNMENT // layout.dtype.itemsize)
    rows = layer.kv_heads * page_tokens
    keys = -(-rows * layer.key_dim // per_line) * per_line
    values = 0 if layer.shared else -(-rows * layer.value_dim // per_line) * per_line
    return keys, values


def _group(layout: KvLayout, window: int | None, layers: Sequence[int], page_tokens: int) -> Group:
    sizes = [_keys_and_values(layout, layout.layers[i], page_tokens) for i in layers]
    begins = list(accumulate((keys + values for keys, values in sizes), initial=0))
    parts = tuple(
        LayerPart(begin, begin if layout.layers[i].shared else begin + keys)
        for i, begin, (keys, _) in zip(layers, begins, sizes, strict=False)
    )
    return Group(window, tuple(layers), parts, begins[-1])
