"""Stored bytes as tensors."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

STORED_DTYPES: Final = {
    "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16,
    "U8": torch.uint8, "I8": torch.int8, "I32": torch.int32,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
}  # fmt: skip
FLOATS: Final = ("F32", "BF16", "F16")
"""That are converted where a model computes in another of them."""


def bytes_of(view: memoryview) -> Tensor:
    """The bytes that ``view`` has, which the tensor keeps alive; written to only if that may be."""
    if not isinstance(view, memoryview):  # a device's memory, as an array that DLPack knows
        return from_dlpack(view)
    # By way of DLPack, which has a flag for memory that is read-only; torch.frombuffer warns.
    return from_dlpack(np.frombuffer(view, np.uint8))


def tensor_of(view: memoryview, shape: tuple[int, ...], dtype: str) -> Tensor:
    """The tensor over ``view``, which it keeps alive; nobody may write to it.

    ``dtype`` is a name of :data:`STORED_DTYPES`. Copied only where the bytes don't lie at a
    multiple of an element's size.
    """
    kind = STORED_DTYPES[dtype]
    if not isinstance(view, memoryview):
        return bytes_of(view).view(kind).reshape(shape)
    words = np.frombuffer(view, dtype=f"u{kind.itemsize}")
    if not words.flags.aligned:
        words = words.copy()
    return from_dlpack(words).view(kind).reshape(shape)
