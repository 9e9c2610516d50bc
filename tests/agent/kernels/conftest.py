"""Triton's kernels run in Triton's interpreter unless the tests for GPUs alone were asked for.

The interpreter of Triton 3.6 counts loops in a way that numpy 2.4 refuses, rounds to bfloat16
wrongly, can't multiply it, and leaves the order of a product's sum to BLAS; here it does as GPUs
do: one product after the other joins its sum.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    """Before any test module imports a kernel."""
    if os.environ.get("TRITON_INTERPRET") == "1":  # see the conftest of all tests
        mend_interpreter()


def mend_interpreter() -> None:
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float
    bits = {torch.bfloat16: torch.uint16, torch.float32: torch.int32}
    dtypes = {tl.bfloat16: torch.bfloat16, tl.float32: torch.float32}

    def converted(x: Any, source: Any, target: Any, rounding: Any) -> Any:
        if {source, target} != {tl.bfloat16, tl.float32}:
            return convert(x, source, target, rounding)
        stored = torch.from_numpy(np.ascontiguousarray(x)).view(dtypes[source])
        return stored.to(dtypes[target]).view(bits[dtypes[target]]).numpy().reshape(x.shape)

    def wide(operand: Any) -> Any:
        if operand.dtype == tl.bfloat16:
            return converted(operand.data, tl.bfloat16, tl.float32, None).view(np.float32)
        return operand.data.astype(np.float32)

    def dot(self: Any, a: Any, b: Any, total: Any, *_: Any) -> Any:
        x_MK, y_KN, sum_MN = wide(a), wide(b), total.data
        with np.errstate(invalid="ignore", over="ignore"):
            for x_M, y_N in zip(x_MK.T, y_KN, strict=True):
                sum_MN = sum_MN + x_M[:, None] * y_N
        return interpreter.TensorHandle(sum_MN, total.dtype.scalar)

    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    call, ready = interpreter.InterpretedFunction.__call__, set[str]()

    def called(self: Any, *arguments: Any, **named: Any) -> Any:
        module = self.fn.__module__
        if module.startswith("lite_llm") or module in ready:  # what it needs is patched: slow work
            return self.rewrite()(*arguments, **named)
        ready.add(module)
        return call(self, *arguments, **named)

    interpreter.InterpretedFunction.__call__ = called
    interpreter._patch_lang_tensor = patched
    interpreter._convert_float = converted
    interpreter.InterpreterBuilder.create_dot = dot
