"""How a page is written outside the device: as it is, or smaller and not quite the same.

Legend: X elements of a page, Y bytes of it outside, K blocks of a page.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import torch
from torch import Tensor

from lite_llm.contracts.errors import InvalidSettings

_BLOCK: Final = 64  # elements that share a scale: the fewest in any layer's part of a page
_LEVELS: Final = 127.0
_NO_NUMBER: Final = -128  # the level that is left over
_HALF_MOST: Final = torch.finfo(torch.float16).max


class PageFormat(StrEnum):
    """Of pages in host memory and on disk."""

    EXACT = "exact"
    """Bit for bit."""
    FLOAT16 = "float16"
    """Half of float32; values beyond its range are cut to it."""
    INT8 = "int8"
    """Eight bits an element and a float32 scale for every 64; infinity comes back as NaN."""


class PageCodec:
    """Both directions, on whichever device the page is."""

    def __init__(self, form: PageFormat, num_elements: int, dtype: torch.dtype) -> None:
        """Raises :class:`InvalidSettings` where ``form`` would not be smaller than ``dtype``."""
        self._form = form
        exact = num_elements * dtype.itemsize
        assert num_elements % _BLOCK == 0, num_elements
        self.num_bytes = {
            PageFormat.EXACT: exact,
            PageFormat.FLOAT16: num_elements * 2,
            PageFormat.INT8: num_elements + num_elements // _BLOCK * 4,
        }[form]
        if form is not PageFormat.EXACT and self.num_bytes >= exact:
            raise InvalidSettings(f"{form} is not smaller than {dtype}", where="kvcache")

    def encode(self, page_X: Tensor, into_Y: Tensor) -> None:
        """``into_Y`` is uint8."""
        match self._form:
            case PageFormat.EXACT:
                packed_Y = page_X.view(torch.uint8)
            case PageFormat.FLOAT16:
                packed_Y = page_X.clamp(-_HALF_MOST, _HALF_MOST).half().view(torch.uint8)
            case PageFormat.INT8:
                blocks_KX = page_X.float().view(-1, _BLOCK)
                # A block can be of several tokens: one that is broken, or was another sequence's,
                # must not reach the others by the scale.
                finite_KX = blocks_KX.isfinite()
                scale_K1 = blocks_KX.where(finite_KX, 0.0).abs().amax(1, keepdim=True) / _LEVELS
                # A block of zeros has no scale, and needs none.
                whole_KX = (blocks_KX / scale_K1.where(scale_K1 > 0, 1.0)).round()
                whole_KX = whole_KX.clamp(-_LEVELS, _LEVELS).where(finite_KX, _NO_NUMBER)
                whole_KX = whole_KX.to(torch.int8)
                parts = (whole_KX.view(-1).view(torch.uint8), scale_K1.view(-1).view(torch.uint8))
                packed_Y = torch.cat(parts)
        into_Y.copy_(packed_Y, non_blocking=True)

    def decode(self, from_Y: Tensor, into_X: Tensor) -> None:
        """The inverse, up to what the format loses."""
        packed_Y = from_Y.to(into_X.device, non_blocking=True)
        match self._form:
            case PageFormat.EXACT:
                into_X.view(torch.uint8).copy_(packed_Y)
            case PageFormat.FLOAT16:
                into_X.copy_(packed_Y.view(torch.float16))
            case PageFormat.INT8:
                num_elements = into_X.numel()
                whole_KX = packed_Y[:num_elements].view(torch.int8).view(-1, _BLOCK)
                scale_K1 = packed_Y[num_elements:].view(torch.float32)[:, None]
                blocks_KX = (whole_KX * scale_K1).masked_fill(whole_KX == _NO_NUMBER, torch.nan)
                into_X.copy_(blocks_KX.view(-1))
