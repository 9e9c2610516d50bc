"""Triton's compiler takes what its interpreter does, and makes of it what it should."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COMPILE = """
import sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lite_llm.kernels import LayerPages, PagedKv, Rows
from lite_llm.kernels import triton_launch, triton_linear, triton_paged, triton_rowwise

NAMES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int32: "*i32", torch.int64: "*i64"}

def compiled(self, grid, *arguments, warps=4, stages=2, **constants):
    function, values, types, attributes = self._compiled, iter(arguments), {}, {}
    for index, parameter in enumerate(function.params):
        if parameter.name in constants:
            types[parameter.name] = "constexpr"
            continue
        value, is_aligned = next(values), False
        if isinstance(value, torch.Tensor):
            types[parameter.name], is_aligned = NAMES[value.dtype], value.data_ptr() % 16 == 0
        elif isinstance(value, float):
            types[parameter.name] = "fp32"
        elif value == 1 and not parameter.do_not_specialize:
            types[parameter.name], constants[parameter.name] = "constexpr", 1
        else:
            types[parameter.name] = "i32"
            is_aligned = value % 16 == 0 and not parameter.do_not_specialize
        if is_aligned and not parameter.do_not_specialize_on_alignment:
            attributes[index,] = [["tt.divisibility", 16]]
    places = {(function.arg_names.index(name),): value for name, value in constants.items()}
    binary = triton.compile(
        ASTSource(function, types, places, attributes),
        target=GPUTarget("cuda", int(sys.argv[1]), 32),
        options={"num_warps": warps, "num_stages": stages, "enable_fp_fusion": False},
    )
    ptx = binary.asm["ptx"]
    unit = next((each for each in ("wgmma.mma", "mma.sync") if each in ptx), "none")
    print(function.__name__, grid[0], unit, binary.metadata.shared, "fma.rn.f32" in ptx)

triton_launch.Kernel.launch = compiled
triton_linear._is_proven = triton_paged._is_proven = lambda *_: True

def zeros(*shape):
    return torch.zeros(shape, dtype=torch.bfloat16)

weight = zeros(1024, 4096)
for rows in (1, 33, 128):
    triton_linear.linear(zeros(rows, 4096), (weight, None))
triton_linear.linears(zeros(1, 4096), [(weight[:n], weight[0, :n]) for n in (64, 32, 16)])
triton_linear.grouped_linear(zeros(5, 4096), [weight[:512], weight[512:]], [2, 3], None)
triton_linear.linear(torch.zeros(3, 37), (torch.zeros(5, 37), None))
triton_rowwise.rms_norm(zeros(2, 64), zeros(64), 1e-6, plus_one=False)
triton_rowwise.rotate(zeros(2, 8, 128), torch.zeros(2, 64), torch.zeros(2, 64))
for activation in range(3):
    triton_rowwise.gated(zeros(2, 64), zeros(2, 64), activation)
triton_rowwise.soften(torch.zeros(2, 64), logarithm=True)
keys, at = zeros(70, 8, 16, 128), torch.zeros(40, dtype=torch.int32)
for rows, given in ((2, (None, None, None)), (2, (20, 5.0, torch.zeros(32))), (40, (None,) * 3)):
    where = Rows(at[:rows], at[:rows], torch.zeros(2, 64, dtype=torch.int32))
    pages = LayerPages(PagedKv(keys, keys.clone()), where)
    triton_paged.attend(zeros(rows, 32, 128), pages, 0.1, *given)
triton_paged.store(pages, zeros(40, 8, 128), zeros(40, 8, 128))
latent = zeros(70, 1, 16, 576)
pages = LayerPages(PagedKv(latent, latent[..., :512]), Rows(at[:2], at[:2], where.pages_SN))
triton_paged.attend(zeros(2, 16, 576), pages, 0.1, None, None, None)
"""


@pytest.mark.parametrize(("architecture", "broad"), [(80, "mma.sync"), (90, "wgmma.mma")])
def test_every_kernel_compiles(architecture: int, broad: str) -> None:
    """For an A100 and for an H100: one of 128 rows may use the wider unit, those of few mustn't."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(architecture)],
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {line[0] for line in lines} == {
        "_multiply", "_normalise", "_rotate", "_gate", "_soften", "attend", "fold", "_store"
    }  # fmt: skip
    products = [line for line in lines if line[0] == "_multiply"]
    units = ["mma.sync", "mma.sync", broad, "mma.sync", "mma.sync", "none"]
    assert [line[2] for line in products] == units
    assert all(line[4] == "False" for line in products[:-1]), "nothing fused that isn't said"
    assert max(int(line[3]) for line in lines) < 163 << 10, "an A100's shared memory"
