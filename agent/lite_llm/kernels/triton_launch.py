"""How this room's Triton kernels are declared, launched, and trusted.

What a kernel computes must not depend on how its code was specialised. So the numbers of a batch
(``free``) choose no code, nor does where a sum's operands lie (``anywhere``). Products are fused
with sums where a kernel says so, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import triton

F = TypeVar("F", bound=Callable[..., Any])


class Kernel:
    """A function over tiles; each program of the grid runs it once."""

    def __init__(
        self, function: Callable[..., None], free: Sequence[str], anywhere: Sequence[str]
    ) -> None:
        self._compiled: Any = triton.jit(
            function,
            do_not_specialize=list(free),
            do_not_specialize_on_alignment=list(anywhere),
        )

    def launch(
        self,
        grid: tuple[int, ...],
        *arguments: Any,
        warps: int = 4,
        stages: int = 2,
        **constants: Any,
    ) -> None:
        """On the current device's current stream; nothing if the grid is empty."""
        if 0 not in grid:
            self._compiled[grid](
                *arguments,
                **constants,
                num_warps=warps,
                num_stages=stages,
                enable_fp_fusion=False,
            )


def kernel(
    *, free: Sequence[str] = (), anywhere: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Kernel]:
    """Declare a kernel. ``free``: numbers that differ between batches. ``anywhere``: tensors and
    numbers whose alignment must not choose the order in which a row is added up."""
    return lambda function: Kernel(function, free, anywhere)


def inlined(function: F) -> F:
    """Let kernels call a function."""
    compiled: F = triton.jit(function)
    return compiled


def padded(size: int, least: int = 1) -> int:
    """The power of two that holds ``size``."""
    return max(least, 1 << max(0, size - 1).bit_length())
