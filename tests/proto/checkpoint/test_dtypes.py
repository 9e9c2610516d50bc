"""Conversions round as torch does, to the nearest and ties to even, and lose no number silently."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_llm.checkpoint.dtypes import FLOATS, as_array, converted
from lite_llm.contracts.errors import Unsupported
from lite_llm.contracts.manifest import DTYPE_BITS

TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def stored(values: Any, dtype: str) -> bytes:
    tensor = torch.as_tensor(values, dtype=TORCH[dtype])
    return bytes(tensor.contiguous().view(torch.uint8).numpy().data)


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("target", FLOATS)
def test_every_pair_agrees_with_torch(source: str, target: str) -> None:
    random = np.random.default_rng(0)
    values = np.concatenate(
        [random.standard_normal(4000) * scale for scale in (1e-44, 1e-40, 1e-7, 1.0, 3e4)]
        + [[0.0, -0.0, np.inf, -np.inf, 1.00390625, 1.01171875, 65504.0]]
    )
    original = torch.as_tensor(values).to(TORCH[source])
    expected = original.to(TORCH[target])
    finite = expected.isfinite() | ~original.isfinite()
    original, expected = original[finite], expected[finite]
    found = converted(stored(original, source), source, target, "t")
    assert bytes(found) == stored(expected, target)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
def test_any_single_rounds_to_bfloat16_as_torch_rounds_it(values: list[float]) -> None:
    expected = torch.tensor(values, dtype=torch.float32).to(torch.bfloat16)
    if (expected.isinf() & torch.tensor(values).isfinite()).any():
        with pytest.raises(Unsupported):
            converted(stored(values, "F32"), "F32", "BF16", "t")
    else:
        assert bytes(converted(stored(values, "F32"), "F32", "BF16", "t")) == stored(
            expected, "BF16"
        )


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(allow_nan=False, min_value=-3e38, max_value=3e38), max_size=50))
def test_doubles_are_rounded_once(values: list[float]) -> None:
    """Rounded to single first, 1 + 2**-8 + 2**-40 would become a tie, and go the other way."""
    values = [*values, 1 + 2**-8 + 2**-40, 1 + 2**-8 - 2**-40]
    wide = np.array(values)
    found = converted(wide.tobytes(), "F64", "BF16", "t")
    bits = np.frombuffer(found, "<u2").astype("<u4") << 16
    narrow = bits.view("<f4").astype(np.float64)
    for neighbour in (bits - 0x10000, bits + 0x10000):
        other = neighbour.view("<f4").astype(np.float64)
        nearer = np.isfinite(other) & (np.abs(other - wide) < np.abs(narrow - wide))
        assert not nearer.any()
    assert narrow[-2:].tolist() == [1.0078125, 1.0]


@pytest.mark.parametrize("target", FLOATS)
def test_no_number_stays_no_number(target: str) -> None:
    for bits in (0x7F800001, 0x7FFFFFFF, 0xFFC00000, 0xFF800001):
        data = np.array([bits], "<u4").tobytes()
        found = converted(data, "F32", target, "t")
        tensor = torch.frombuffer(bytearray(found), dtype=TORCH[target])
        assert tensor.isnan().all()


@pytest.mark.parametrize(
    ("value", "target"), [(65520.0, "F16"), (-1e9, "F16"), (3.4028235e38, "BF16")]
)
def test_a_number_beyond_the_range_is_refused_by_name(value: float, target: str) -> None:
    with pytest.raises(Unsupported, match=r"layer\.7: .* is too large for"):
        converted(stored([1.0, value], "F32"), "F32", target, "layer.7")


def test_nothing_converts_to_nothing() -> None:
    assert len(converted(b"", "F32", "BF16", "t")) == 0


@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_every_dtype_has_an_array(dtype: str) -> None:
    array = as_array(bytes(48), dtype, (48 * 8 // DTYPE_BITS[dtype],))
    assert array.nbytes == 48
