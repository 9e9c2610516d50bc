"""Where records go: aligned, within bounded files, in an order of their own."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_llm.checkpoint.layout import CHUNK_BYTES, Layout, Sized, SizedExpert, lay_out
from lite_llm.contracts.errors import Unsupported
from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.manifest import PART_ALIGNMENT, ExpertRecord, Span, TensorRecord


def tensor(name: str, num_bytes: int) -> Sized:
    return Sized(TensorRecord(name, Span("s", 0, num_bytes), (num_bytes,), "U8"), "U8", num_bytes)


def expert(layer: int, row: int, *part_bytes: int, tier: int = 0) -> SizedExpert:
    parts = tuple(tensor(f"{n}.weight", size) for n, size in enumerate(part_bytes))
    key = ExpertKey(layer, tier, 0, row)
    return SizedExpert(ExpertRecord(key, tuple(part.source for part in parts), row), parts)


def check(layout: Layout, limit: int) -> None:
    """What every layout promises."""
    for file in layout.files:
        assert 0 <= file.num_bytes <= limit
        assert file.num_bytes % 4096 == file.chunk_bytes % 4096 == 0
        spans = [copy.target.span for copy in file.copies]
        assert all(before.end <= after.offset for before, after in pairwise(spans))
        assert not spans or spans[-1].end <= file.num_bytes
    assert all(record.span.offset % 4096 == 0 for record in layout.tensors)
    for record in layout.experts:
        assert record.span is not None
        assert record.span.offset % 4096 == 0
        assert all(part.span.offset % PART_ALIGNMENT == 0 for part in record.parts)
    assert [record.key for record in layout.experts] == sorted(r.key for r in layout.experts)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["", "model.layers.0.", "h.1.", "a.b."]), st.integers(0, 30_000)),
        max_size=20,
    ),
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 1), st.lists(st.integers(0, 9000), min_size=1)),
        max_size=20,
    ),
    st.sampled_from([100_000, 1 << 20]),
    st.randoms(),
)
def test_promises_hold_and_the_order_of_the_input_does_not_matter(
    dense: list[tuple[str, int]],
    experts: list[tuple[int, int, list[int]]],
    limit: int,
    random: object,
) -> None:
    tensors = [tensor(f"{prefix}t{n}", size) for n, (prefix, size) in enumerate(dense)]
    members = [
        expert(layer, n, *sizes[:4], tier=tier) for n, (layer, tier, sizes) in enumerate(experts)
    ]
    layout = lay_out(tensors, members, max_file_bytes=limit)
    check(layout, limit)
    assert {record.name for record in layout.tensors} == {t.source.name for t in tensors}
    assert len(layout.experts) == len(members)
    again = lay_out(reversed(tensors), reversed(members), max_file_bytes=limit)
    assert again == layout


def test_a_large_expert_is_a_whole_number_of_chunks() -> None:
    num_bytes = 3 * CHUNK_BYTES + 12_345
    layout = lay_out([], [expert(0, row, num_bytes) for row in range(3)])
    (file,) = layout.files
    assert file.chunk_bytes <= CHUNK_BYTES
    assert [record.parts[0].span.offset % file.chunk_bytes for record in layout.experts] == [0] * 3
    wasted = file.num_bytes - 3 * num_bytes
    assert wasted <= 3 * 4 * 4096


def test_files_are_split_before_they_are_too_large() -> None:
    layout = lay_out([tensor(f"t{n}", 8000) for n in range(5)], [], max_file_bytes=20_000)
    assert [(file.name, file.num_bytes) for file in layout.files] == [
        ("dense-outer-000.bin", 16384),
        ("dense-outer-001.bin", 16384),
        ("dense-outer-002.bin", 8192),
    ]


def test_a_record_larger_than_a_file_is_refused() -> None:
    with pytest.raises(Unsupported, match="does not fit"):
        lay_out([tensor("t", 8193)], [], max_file_bytes=8192)
    with pytest.raises(Unsupported, match="does not fit"):
        lay_out([], [expert(0, 0, 8193)], max_file_bytes=8192)
