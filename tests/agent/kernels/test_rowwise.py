"""Norms, rotation, activations and softmax: right to the last rounding, and row by row."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lite_llm.kernels import Activation, gated, log_softmax, rms_norm, rotate, softmax

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ULP = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return (3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def close(ours: Tensor, exact: Tensor, dtype: torch.dtype) -> bool:
    return bool(((ours.double() - exact).abs() <= ULP[dtype] * exact.abs() + 1e-6).all())


def row_by_row(compute: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """A row alone, and rows in another order, give the same bits."""
    together = compute(x)
    alone = torch.cat([compute(x[i : i + 1]) for i in range(len(x))])
    backwards = compute(x.flip(0)).flip(0)
    return torch.equal(together, alone) and torch.equal(together, backwards)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 7, 16, 40, 1100, 2304])
def test_norms(dtype: torch.dtype, size: int) -> None:
    x, weight = normal(9, size, dtype=dtype), normal(size, dtype=dtype, seed=1)
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert close(rms_norm(x, None, 1e-6), exact, dtype)
    assert close(rms_norm(x, weight, 1e-6, plus_one=True), exact * (1 + weight.double()), dtype)
    assert torch.equal(rms_norm(x, weight, 1e-6), weight * rms_norm(x, None, 1e-6))
    wide = weight.float()
    assert torch.equal(rms_norm(x, wide, 1e-6), wide * rms_norm(x, None, 1e-6))
    assert row_by_row(lambda rows: rms_norm(rows, weight, 1e-6), x)


def test_a_norm_of_heads_in_a_wider_tensor() -> None:
    wide, weight = normal(5, 6, 40), normal(24, seed=1)
    heads = wide[:, 1:4, 8:32]
    assert torch.equal(rms_norm(heads, weight, 1e-5), rms_norm(heads.contiguous(), weight, 1e-5))
    flat = rms_norm(heads.reshape(15, 24), weight, 1e-5)
    assert torch.equal(rms_norm(heads, weight, 1e-5).reshape(15, 24), flat)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "turned"), [(8, 8), (80, 32), (128, 128), (9, 6)])
def test_rotation_is_the_textbook_formula_bit_for_bit(
    dtype: torch.dtype, size: int, turned: int
) -> None:
    x = normal(7, 5, size + 3, dtype=dtype)[..., :size]
    angles = normal(7, turned, seed=2)
    cos, sin = angles.cos().to(dtype)[:, None], angles.sin().to(dtype)[:, None]
    first, second = x[..., :turned].chunk(2, dim=-1)
    expected = x[..., :turned] * cos + torch.cat((-second, first), dim=-1) * sin
    result = rotate(x, angles.cos(), angles.sin())
    assert torch.equal(result, torch.cat((expected, x[..., turned:]), dim=-1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", list(Activation))
def test_gates(dtype: torch.dtype, activation: Activation) -> None:
    both = normal(9, 2 * 45, dtype=dtype)
    both[0, :8] = torch.tensor([0.0, -0.0, math.inf, -20, 20, 1e-3, 60, -60]).to(dtype)
    gate, up = both[:, :45], both[:, 45:]
    formulas: dict[Activation, Callable[[Tensor], Tensor]] = {
        Activation.SILU: functional.silu,
        Activation.GELU: functional.gelu,
        Activation.GELU_TANH: lambda x: functional.gelu(x, approximate="tanh"),
    }
    exact = formulas[activation](gate.double()) * up.double()
    finite = exact.isfinite()
    result = gated(gate, up, activation)
    # Two roundings, hence twice the unit.
    assert ((result - exact).abs() <= 2 * ULP[dtype] * exact.abs() + 2e-6)[finite].all()
    assert not result[~finite].isfinite().any()
    ones = torch.ones_like(up)
    assert torch.equal(result, gated(gate, ones, activation) * up), "rounded before the product"
    assert row_by_row(lambda rows: gated(rows[:, :45], rows[:, 45:], activation), both)


def test_gates_have_to_fit() -> None:
    with pytest.raises(ValueError, match="one shape and dtype"):
        gated(normal(2, 4), normal(2, 5), Activation.SILU)


@pytest.mark.parametrize("size", [1, 16, 1000, 33333])
def test_softmax_and_its_logarithm(size: int) -> None:
    x = normal(6, size)
    assert ((softmax(x) - x.double().softmax(-1)).abs() <= 6e-6 * x.double().softmax(-1)).all()
    assert ((log_softmax(x) - x.double().log_softmax(-1)).abs() < 5e-6).all()
    assert row_by_row(softmax, x)
    assert row_by_row(log_softmax, x)


def test_softmax_of_masked_and_broken_rows() -> None:
    x = torch.tensor([[0.0, -math.inf, 0.0], [1, math.nan, 1], [math.inf, 0, 0]])
    assert softmax(x)[0].tolist() == [0.5, 0.0, 0.5]
    assert log_softmax(x)[0].exp().tolist() == pytest.approx([0.5, 0.0, 0.5])
    assert softmax(x)[1:].isnan().all()
    assert log_softmax(x)[1:].isnan().all()
