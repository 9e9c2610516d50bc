"""Products: equal to exact arithmetic within rounding, and to themselves bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lite_llm.kernels import grouped_linear, linear, linears, set_threads

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SIZES = [(1, 1), (1, 37), (3, 5), (16, 4), (513, 7), (640, 130), (1031, 65)]


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_products_are_exact_sums_rounded(dtype: torch.dtype, inputs: int, outputs: int) -> None:
    x, weight = normal(21, inputs, dtype=dtype), normal(outputs, inputs, dtype=dtype, seed=1)
    bias = normal(outputs, dtype=dtype, seed=2)
    exact = x.double() @ weight.double().T + bias.double()
    wide = linear(x, weight, bias, out_dtype=torch.float32)
    scale = x.double().abs() @ weight.double().abs().T + bias.double().abs()
    assert ((wide - exact).abs() <= 1e-6 * scale).all()
    assert torch.equal(linear(x, weight, bias), wide.to(dtype)), "one rounding, at the end"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_a_row_does_not_depend_on_how_many_there_are(
    dtype: torch.dtype, inputs: int, outputs: int
) -> None:
    x, weight = normal(70, inputs, dtype=dtype), normal(outputs, inputs, dtype=dtype, seed=1)
    alone = torch.cat([linear(row[None], weight) for row in x])
    for rows in (1, 2, 3, 4, 5, 7, 8, 12, 13, 14, 15, 16, 31, 64, 69, 70):
        assert torch.equal(linear(x[:rows], weight), alone[:rows]), rows
    shuffled = torch.randperm(70, generator=torch.Generator().manual_seed(3))
    assert torch.equal(linear(x[shuffled], weight), alone[shuffled])
    many = x.repeat(6, 1)
    assert torch.equal(linear(many, weight), alone.repeat(6, 1))


def test_threads_change_no_bit() -> None:
    x, weight = normal(40, 1200), normal(300, 1200, seed=1)
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        results += [linear(x, weight), torch.cat([linear(row[None], weight) for row in x])]
    set_threads(torch.get_num_threads())
    assert all(torch.equal(result, results[0]) for result in results)


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    with_bias=st.booleans(),
)
def test_an_expert_computes_what_linear_does(
    counts: list[int], inputs: int, outputs: int, dtype: torch.dtype, with_bias: bool
) -> None:
    x = normal(sum(counts), inputs, dtype=dtype)
    weights = [normal(outputs, inputs, dtype=dtype, seed=5 + i) for i in range(len(counts))]
    biases = [normal(outputs, dtype=dtype, seed=50 + i) for i in range(len(counts))]
    together = grouped_linear(x, weights, counts, biases if with_bias else None)
    parts = zip(torch.split(x, counts), weights, biases, strict=True)
    apart = [linear(part, w, b if with_bias else None) for part, w, b in parts]
    assert torch.equal(together, torch.cat(apart))


def test_counts_have_to_add_up() -> None:
    with pytest.raises(ValueError, match="add up to 3, not to the 4 rows"):
        grouped_linear(normal(4, 8), [normal(2, 8), normal(2, 8)], [1, 2])


def test_a_bad_row_disturbs_no_other() -> None:
    x, weight = normal(20, 600), normal(33, 600, seed=1)
    clean = linear(x, weight)
    x[3, 5], x[7, 0], x[11] = float("nan"), float("inf"), -0.0
    spoilt = linear(x, weight)
    others = [row for row in range(20) if row not in (3, 7, 11)]
    assert torch.equal(spoilt[others], clean[others])
    assert spoilt[3].isnan().all()
    assert not spoilt[7].isfinite().any()
    assert (spoilt[11] == 0).all()


def test_shapes_without_anything_and_shapes_that_do_not_fit() -> None:
    assert linear(normal(0, 8), normal(5, 8)).shape == (0, 5)
    with pytest.raises(ValueError, match="rows of 8 don't fit"):
        linear(normal(2, 8), normal(5, 9))


def test_rows_and_weights_may_be_parts_of_wider_tensors() -> None:
    wide_x, wide_weight = normal(20, 90), normal(40, 90, seed=1)
    x, weight = wide_x[:, 10:80], wide_weight[5:38, 10:80]
    expected = linear(x.contiguous(), weight.contiguous())
    assert torch.equal(linear(x, weight), expected)
    turned = weight.T.contiguous().T
    assert torch.equal(linear(x.T.contiguous().T, turned), expected)


def test_dtypes_may_differ() -> None:
    x, weight = normal(4, 33), normal(6, 33, dtype=torch.bfloat16)
    assert torch.equal(linear(x, weight), linear(x, weight.float()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [0, 1, 3, 40, 200])
def test_products_started_together_are_those_of_each_alone(rows: int, dtype: torch.dtype) -> None:
    x = normal(rows, 70, dtype=dtype)
    weights = [
        (normal(outputs, 70, dtype=dtype, seed=outputs), bias)
        for outputs, bias in ((130, None), (16, normal(16, seed=3)), (1, normal(1, seed=4)))
    ]
    together = linears(x, weights)
    assert all(torch.equal(y, linear(x, *each)) for y, each in zip(together, weights, strict=True))


def test_weights_that_differ_in_dtype_may_be_given_together() -> None:
    x, narrow, wide = normal(4, 33), normal(6, 33, dtype=torch.bfloat16), normal(5, 33)
    first, second = linears(x, [(narrow, None), (wide, None)])
    assert torch.equal(first, linear(x, narrow))
    assert torch.equal(second, linear(x, wide))
