"""Norms, rotation, gates and softmax on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lite_llm.kernels import rowwise
from lite_llm.kernels.triton_rowwise import gated, rms_norm, rotate, soften

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ULP = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}

pytestmark = [
    pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]),
    pytest.mark.filterwarnings("ignore:(invalid|overflow|divide).* encountered:RuntimeWarning"),
]


def normal(*shape: int, device: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(shape, generator=draw)).to(device, dtype)


def close(ours: Tensor, exact: Tensor, dtype: torch.dtype) -> bool:
    return bool(((ours.double() - exact).abs() <= ULP[dtype] * exact.abs() + 1e-6).all())


def row_by_row(compute: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """A row alone, and rows in another order, give the same bits."""
    together = compute(x)
    alone = torch.cat([compute(x[i : i + 1]) for i in range(len(x))])
    backwards = compute(x.flip(0)).flip(0)
    return torch.equal(together, alone) and torch.equal(together, backwards)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 40, 1100])
def test_norms(device: str, dtype: torch.dtype, size: int) -> None:
    x = normal(5, size, device=device, dtype=dtype)
    weight = normal(size, device=device, dtype=dtype, seed=1)
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    bare = rms_norm(x, None, 1e-6, plus_one=False)
    assert close(bare, exact, dtype)
    shifted = rms_norm(x, weight, 1e-6, plus_one=True)
    assert close(shifted, exact * (1 + weight.double()), dtype)
    assert torch.equal(rms_norm(x, weight, 1e-6, plus_one=False), weight * bare)
    wide = weight.float()
    assert torch.equal(rms_norm(x, wide, 1e-6, plus_one=False), wide * bare)
    assert row_by_row(lambda rows: rms_norm(rows, weight, 1e-6, plus_one=False), x)


def test_a_norm_of_heads_in_a_wider_tensor(device: str) -> None:
    wide, weight = normal(5, 6, 40, device=device), normal(24, device=device, seed=1)
    heads = wide[:, 1:4, 9:33]
    together = rms_norm(heads, weight, 1e-5, plus_one=False)
    assert torch.equal(together, rms_norm(heads.contiguous(), weight, 1e-5, plus_one=False))
    flat = rms_norm(heads.reshape(15, 24), weight, 1e-5, plus_one=False)
    assert torch.equal(together.reshape(15, 24), flat)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "turned"), [(8, 8), (80, 32), (128, 128), (9, 6)])
def test_rotation_is_the_textbook_formula_bit_for_bit(
    device: str, dtype: torch.dtype, size: int, turned: int
) -> None:
    x = normal(7, 5, size + 3, device=device, dtype=dtype)[..., :size]
    angles = normal(7, turned, device=device, seed=2)
    cos, sin = angles.cos().to(dtype)[:, None], angles.sin().to(dtype)[:, None]
    first, second = x[..., :turned].chunk(2, dim=-1)
    expected = x[..., :turned] * cos + torch.cat((-second, first), dim=-1) * sin
    result = rotate(x, angles.cos(), angles.sin())
    assert torch.equal(result, torch.cat((expected, x[..., turned:]), dim=-1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [rowwise.SILU, rowwise.GELU, rowwise.GELU_TANH])
def test_gates(device: str, dtype: torch.dtype, activation: int) -> None:
    both = normal(4, 2 * 45, device=device, dtype=dtype)
    both[0, :8] = torch.tensor([0.0, -0.0, math.inf, -20, 20, 1e-3, 60, -60]).to(both)
    gate, up = both[:, :45], both[:, 45:]
    formulas: dict[int, Callable[[Tensor], Tensor]] = {
        rowwise.SILU: functional.silu,
        rowwise.GELU: functional.gelu,
        rowwise.GELU_TANH: lambda x: functional.gelu(x, approximate="tanh"),
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


@pytest.mark.parametrize("size", [1, 1000, 5000])
def test_softmax_and_its_logarithm(device: str, size: int) -> None:
    x = normal(3, size, device=device)
    exact = x.double().softmax(-1)
    assert ((soften(x, logarithm=False) - exact).abs() <= 6e-6 * exact).all()
    assert ((soften(x, logarithm=True) - x.double().log_softmax(-1)).abs() < 5e-6).all()
    assert row_by_row(lambda rows: soften(rows, logarithm=False), x)
    assert row_by_row(lambda rows: soften(rows, logarithm=True), x)


def test_softmax_of_masked_and_broken_rows(device: str) -> None:
    x = torch.tensor([[0.0, -math.inf, 0.0], [1, math.nan, 1], [math.inf, 0, 0]], device=device)
    assert soften(x, logarithm=False)[0].tolist() == [0.5, 0.0, 0.5]
    assert soften(x, logarithm=True)[0].exp().tolist() == pytest.approx([0.5, 0.0, 0.5])
    assert soften(x, logarithm=False)[1:].isnan().all()
    assert soften(x, logarithm=True)[1:].isnan().all()
