"""Numbers as they are stored, as numpy sees them, and from one float format to another."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lite_llm.contracts.errors import Unsupported

Buffer = bytes | bytearray | memoryview

FLOATS: Final = ("F64", "F32", "F16", "BF16")
"""What :func:`converted` goes between; narrower floats come with scales of their own."""

_NUMPY: Final = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
}  # fmt: skip


def as_array(data: Buffer, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """A view of ``data`` as numpy has it; what numpy lacks comes as unsigned bits.

    BF16 comes as uint16, the eight-bit floats as uint8, and floats below a byte as flat uint8.
    """
    if dtype in _NUMPY:
        return np.frombuffer(data, _NUMPY[dtype]).reshape(shape)
    if dtype == "BF16":
        return np.frombuffer(data, "<u2").reshape(shape)
    flat = np.frombuffer(data, "u1")
    return flat.reshape(shape) if dtype.startswith("F8") else flat


def converted(data: Buffer, source: str, target: str, where: str) -> Buffer:
    """The floats in ``data`` in another format, each rounded to the nearest, ties to even.

    Raises :class:`Unsupported` where a finite number would become infinite.
    """
    if source == target:
        return data
    wide = _widened(data, source)
    if target == "BF16":
        narrow = _bfloat16(wide)
        # A finite number that rounds to infinity has all ones in the exponent afterwards.
        lost = ((narrow & 0x7F80) == 0x7F80) & np.isfinite(wide)
    else:
        with np.errstate(all="ignore"):
            narrow = wide.astype(_NUMPY[target])
        lost = np.isinf(narrow) & np.isfinite(wide)
    if lost.any():
        raise Unsupported(
            f"{where}: {wide[lost][0]} is too large for {target}",
            where=where,
            remedy="convert to bfloat16 or float32",
        )
    return narrow.view("u1").data


def _widened(data: Buffer, source: str) -> NDArray[Any]:
    if source == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, _NUMPY[source])


def _bfloat16(values: NDArray[Any]) -> NDArray[np.uint16]:
    """The upper halves of the floats, rounded; NaN stays NaN."""
    single = _rounded_to_odd(values) if values.dtype.itemsize == 8 else values.astype("<f4")
    bits = single.view("<u4")
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
    quiet = ((bits >> 16) | 0x0040).astype("<u2")
    result: NDArray[np.uint16] = np.where(np.isnan(single), quiet, rounded)
    return result


def _rounded_to_odd(values: NDArray[Any]) -> NDArray[np.float32]:
    """Singles of doubles such that a second rounding gives what one rounding would have."""
    with np.errstate(all="ignore"):
        single = values.astype("<f4")
        away = np.abs(single.astype("<f8")) > np.abs(values)
        inward = np.nextafter(single, np.float32(0))
    truncated = np.where(away, inward, single).astype("<f4")
    inexact = np.isfinite(truncated) & (truncated.astype("<f8") != values)
    odd: NDArray[np.float32] = (truncated.view("<u4") | inexact.astype("<u4")).view("<f4")
    return odd
