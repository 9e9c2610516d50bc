"""Sums whose bits depend on their row alone."""

import pytest
import torch

from lite_llm.experts import row_sum, sigmoid, softmax


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 60, 128, 257])
def test_against_float64(width: int) -> None:
    x_TE = torch.randn(33, width, generator=torch.Generator().manual_seed(width)) * 4
    wide_TE = x_TE.double()
    torch.testing.assert_close(
        row_sum(x_TE).double(), wide_TE.sum(-1, keepdim=True), atol=1e-4, rtol=1e-6
    )
    torch.testing.assert_close(softmax(x_TE).double(), wide_TE.softmax(-1), atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(sigmoid(x_TE).double(), wide_TE.sigmoid(), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("operation", [row_sum, softmax, sigmoid])
def test_rows_do_not_know_each_other(operation) -> None:  # type: ignore[no-untyped-def]  # three signatures
    x_TE = torch.randn(611, 60, generator=torch.Generator().manual_seed(1)) * 9
    whole = operation(x_TE)
    for begin, end in ((0, 1), (1, 2), (3, 20), (600, 611), (17, 531)):
        assert torch.equal(operation(x_TE[begin:end]), whole[begin:end])


def test_zeros_at_the_end_change_no_bit() -> None:
    x_TE = torch.randn(100, 37, generator=torch.Generator().manual_seed(2))
    for added in (1, 5, 27, 28, 300):
        longer_TE = torch.cat((x_TE, torch.zeros(100, added)), dim=1)
        assert torch.equal(row_sum(longer_TE), row_sum(x_TE))


def test_minus_infinity_takes_no_share() -> None:
    x_TE = torch.tensor([[1.0, -torch.inf, 1.0], [-torch.inf, 5.0, -torch.inf]])
    assert softmax(x_TE).tolist() == [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]


def test_far_scores_neither_overflow_nor_vanish() -> None:
    assert softmax(torch.tensor([[3e38, -3e38]])).tolist() == [[1.0, 0.0]]
    assert sigmoid(torch.tensor([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]
