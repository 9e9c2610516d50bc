"""Every layer has its own part of a page, and mixed windows waste little."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lite_llm.kvcache import KvLayout, LayerKv
from lite_llm.kvcache.groups import ALIGNMENT, group_layers

layers = st.builds(
    LayerKv,
    kv_heads=st.integers(1, 4),
    key_dim=st.sampled_from([8, 24, 64]),
    value_dim=st.sampled_from([8]),
    window=st.sampled_from([None, 16, 32]),
    shared=st.booleans(),
)


@given(
    st.lists(layers, min_size=1, max_size=20),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from([1, 4, 16]),
)
def test_parts_are_apart(model: list[LayerKv], dtype: torch.dtype, page_tokens: int) -> None:
    layout = KvLayout(tuple(model), dtype)
    groups = group_layers(layout, page_tokens)
    assert sorted(layer for group in groups for layer in group.layers) == list(range(len(model)))
    for group in groups:
        extents = []
        for number, part in zip(group.layers, group.parts, strict=True):
            layer = model[number]
            assert layer.window == group.window
            rows = layer.kv_heads * page_tokens
            extents.append((part.keys_at, part.keys_at + rows * layer.key_dim))
            if layer.shared:
                assert part.values_at == part.keys_at
            else:
                extents.append((part.values_at, part.values_at + rows * layer.value_dim))
        assert all(begin * dtype.itemsize % ALIGNMENT == 0 for begin, _ in extents)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(sorted(extents)))
        assert max(end for _, end in extents) <= group.elements


def layout_of(*windows: int | None) -> KvLayout:
    one = [LayerKv(kv_heads=8, key_dim=64, value_dim=64, window=window) for window in windows]
    return KvLayout(tuple(one), torch.bfloat16)


@pytest.mark.parametrize(
    ("windows", "num_groups"),
    [
        ([None] * 24, 1),
        ([4096] * 32, 1),
        ([128, None] * 12, 2),
        (([512] * 5 + [None]) * 4 + [512] * 2, 7),
    ],
    ids=["Llama", "Mistral", "GPT-OSS", "Gemma 3"],
)
def test_models_waste_little(windows: list[int | None], num_groups: int) -> None:
    groups = group_layers(layout_of(*windows), 16)
    assert len(groups) <= num_groups
    largest = max(group.elements for group in groups)
    used = sum(group.elements for group in groups)
    assert used / (largest * len(groups)) > 0.85
