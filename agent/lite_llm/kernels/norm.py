"""Normalisation. Legend: T rows (any leading dimensions), D the dimension normalised."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def rms_norm(
    x_TD: Tensor, weight_D: Tensor | None, epsilon: float, *, plus_one: bool = False
) -> Tensor:
    """Zhang and Sennrich (2019), in float32, rounded to x's dtype before the weight is applied.

    ``plus_one``: Gemma's, whose weights are stored less one and applied in float32, before the
    rounding. Without a weight: the division alone.
    """
    x32_TD = x_TD.float()
    y_TD = functional.rms_norm(x32_TD, x_TD.shape[-1:], eps=epsilon)
    if plus_one and weight_D is not None:
        return (y_TD * (1.0 + weight_D.float())).to(x_TD.dtype)
    return y_TD.to(x_TD.dtype) if weight_D is None else weight_D * y_TD.to(x_TD.dtype)
