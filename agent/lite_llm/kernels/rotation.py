"""Rotary embedding, applied. Legend: T rows, H heads, C dimensions of a head, R of them turned."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x_THC: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Turn the first R dimensions of every head; dimension i is paired with i + R / 2.

    ``cos_TR`` and ``sin_TR`` are float32 and hold both halves; the result has x's dtype, and is
    rounded as transformers rounds: the factors to x's dtype first.
    """
    width = cos_TR.shape[-1]
    turned, rest = x_THC[..., :width], x_THC[..., width:]
    first, second = turned.chunk(2, dim=-1)
    cos, sin = cos_TR.to(x_THC.dtype)[:, None], sin_TR.to(x_THC.dtype)[:, None]
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned
