"""Root-mean-square normalisation. Legend: T tokens, D hidden."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x_TD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    """Scaled to unit mean square in float32, then weighted in the model's own dtype."""
    wide_TD = x_TD.to(torch.float32)
    scale_T1 = torch.rsqrt(wide_TD.square().mean(dim=-1, keepdim=True) + epsilon)
    return weight_D * (wide_TD * scale_T1).to(x_TD.dtype)
