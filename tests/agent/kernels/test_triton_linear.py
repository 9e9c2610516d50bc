"""Products on a GPU, or in Triton's interpreter: exact sums rounded, and one order of summing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lite_llm.kernels import triton_linear
from lite_llm.kernels.triton_linear import Tile, grouped_linear, linear, linears

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SIZES = [(1, 1), (37, 3), (64, 24), (515, 9)]

pytestmark = [
    pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]),
    pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning"),
]


@pytest.fixture(autouse=True)
def small_tiles(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the shapes of the real ones, but quick to interpret."""
    if device == "cpu":
        monkeypatch.setattr(triton_linear, "_PROBE", 72)
        monkeypatch.setattr(triton_linear, "_NARROW", (Tile(4, 8, 32, 2, 4), Tile(16, 8, 16, 4, 4)))
        monkeypatch.setattr(triton_linear, "_BROAD", (Tile(32, 16, 64, 8, 4),))


def normal(*shape: int, device: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw).to(device, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_products_are_exact_sums_rounded(
    device: str, dtype: torch.dtype, inputs: int, outputs: int
) -> None:
    x = normal(21, inputs, device=device, dtype=dtype)
    weight = normal(outputs, inputs, device=device, dtype=dtype, seed=1)
    bias = normal(outputs, device=device, dtype=dtype, seed=2)
    exact = x.double() @ weight.double().T + bias.double()
    wide = linear(x, (weight, bias), torch.float32)
    scale = x.double().abs() @ weight.double().abs().T + bias.double().abs()
    assert ((wide - exact).abs() <= 1e-6 * scale).all()
    assert torch.equal(linear(x, (weight, bias)), wide.to(dtype)), "one rounding, at the end"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("inputs", "outputs"), [(37, 3), (130, 20)])
def test_a_row_does_not_depend_on_how_many_there_are(
    device: str, dtype: torch.dtype, inputs: int, outputs: int
) -> None:
    x = normal(70, inputs, device=device, dtype=dtype)
    weight = normal(outputs, inputs, device=device, dtype=dtype, seed=1)
    few = 6
    alone = torch.cat([linear(row[None], (weight, None)) for row in x[:few]])
    for rows in (2, 4, 5, 16, 17, 33, 70):
        assert torch.equal(linear(x[:rows], (weight, None))[:few], alone[:rows]), rows
    assert torch.equal(linear(x.flip(0), (weight, None)).flip(0)[:few], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
def test_weights_together_give_what_each_gives(
    device: str, dtype: torch.dtype, biased: bool
) -> None:
    x = normal(19, 70, device=device, dtype=dtype)
    weights = [
        (
            normal(size, 70, device=device, dtype=dtype, seed=size),
            normal(size, device=device, dtype=dtype) if biased else None,
        )
        for size in (40, 1, 8, 3)
    ]
    for count in (1, 2, 3, 4):
        together = linears(x, weights[:count])
        assert all(
            torch.equal(y, linear(x, each)) for y, each in zip(together, weights, strict=False)
        )
    mixed = [weights[0], (weights[2][0], normal(8, device=device, dtype=dtype))]
    assert torch.equal(linears(x, mixed)[1], linear(x, mixed[1]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("counts", [[0, 5, 1, 20], [4, 4, 4], [0, 0]])
def test_an_expert_computes_what_linear_does(
    device: str, dtype: torch.dtype, biased: bool, counts: list[int]
) -> None:
    x = normal(sum(counts), 36, device=device, dtype=dtype)
    weights = [normal(13, 36, device=device, dtype=dtype, seed=5 + i) for i in range(len(counts))]
    biases = [normal(13, device=device, dtype=dtype, seed=50 + i) for i in range(len(counts))]
    together = grouped_linear(x, weights, counts, biases if biased else None)
    parts = zip(torch.split(x, counts), weights, biases, strict=True)
    apart = [linear(part, (w, b if biased else None)) for part, w, b in parts]
    assert torch.equal(together, torch.cat(apart))


def test_heads_of_one_tensor_need_no_table(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(triton_linear, "_table")
    heads = normal(5, 2 * 13, 36, device=device)[:, :13].unbind()
    x = normal(15, 36, device=device)
    together = grouped_linear(x, heads, [3] * 5, None)
    apart = [linear(part, (w, None)) for part, w in zip(torch.split(x, 3), heads, strict=True)]
    assert torch.equal(together, torch.cat(apart))


def test_a_bad_row_disturbs_no_other(device: str) -> None:
    x, weight = normal(20, 100, device=device), normal(33, 100, device=device, seed=1)
    clean = linear(x, (weight, None))
    x[3, 5], x[7, 0] = float("nan"), float("inf")
    spoilt = linear(x, (weight, None))
    others = [row for row in range(20) if row not in (3, 7)]
    assert torch.equal(spoilt[others], clean[others])
    assert spoilt[3].isnan().all()
    assert not spoilt[7].isfinite().any()


def test_shapes_without_anything_and_shapes_that_do_not_fit(device: str) -> None:
    weight = normal(5, 8, device=device)
    assert linear(normal(0, 8, device=device), (weight, None)).shape == (0, 5)
    with pytest.raises(ValueError, match="rows of 9 don't fit"):
        linear(normal(2, 9, device=device), (weight, None))


def test_rows_and_weights_may_be_parts_of_wider_tensors_of_other_dtypes(device: str) -> None:
    wide_x = normal(20, 90, device=device)
    wide_weight = normal(40, 90, device=device, dtype=torch.bfloat16, seed=1)
    x, weight = wide_x[:, 10:80], wide_weight[5:38, 10:80]
    expected = linear(x.contiguous(), (weight.float().contiguous(), None))
    assert torch.equal(linear(x, (weight, None)), expected)
    assert torch.equal(linear(x.T.contiguous().T, (weight.T.contiguous().T, None)), expected)


def test_a_tile_that_disagrees_is_not_used(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = triton_linear._launch

    def spoiling(tile: Tile, x: Tensor, weights: object, outs: list[Tensor], *rest: object) -> None:
        launch(tile, x, weights, outs, *rest)  # type: ignore[arg-type]  # passed on as they came
        if tile in triton_linear._BROAD:
            outs[0][-1, -1] += 2.0**-20 * outs[0][-1, -1].abs() + 1e-30

    x, weight = (normal(rows, 64, device=device, dtype=torch.float16) for rows in (200, 48))
    assert triton_linear._tile_for(200, 48, x, weight) in triton_linear._BROAD
    monkeypatch.setattr(triton_linear, "_is_proven", triton_linear._is_proven.__wrapped__)
    monkeypatch.setattr(triton_linear, "_launch", spoiling)
    assert triton_linear._tile_for(200, 48, x, weight) in triton_linear._NARROW
