"""Which tensors go to the Triton kernels. Triton itself is imported when the first of them comes,
so that nothing is needed on machines without a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def on_gpu(x: Tensor, *others: Tensor) -> bool:
    """Whether a kernel for CUDA takes these."""
    return x.is_cuda and all(each.dtype in _DTYPES for each in (x, *others))
