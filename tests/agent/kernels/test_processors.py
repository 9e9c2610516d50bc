"""The width of a processor's registers, and whether it fuses multiply and add, change no bit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

DIGEST = """
import hashlib, torch
from lite_llm.kernels import linear, log_softmax
draw = torch.Generator().manual_seed(0)
digest = hashlib.sha256()
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    x = torch.randn(5, 700, generator=draw).to(dtype)
    weight = torch.randn(9, 700, generator=draw).to(dtype)
    for y in (linear(x, weight), linear(x[:1], weight), log_softmax(x)):
        digest.update(y.view(torch.uint8).numpy().tobytes())
print(digest.hexdigest())
"""


def digest(**environment: str) -> str:
    command = [sys.executable, "-c", DIGEST]
    return subprocess.check_output(command, env={**os.environ, **environment}, text=True)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names processors of that family")
def test_a_processor_with_half_the_registers_and_no_fma_gives_the_same_bits(tmp_path: Path) -> None:
    older = digest(
        NUMBA_CPU_NAME="ivybridge",
        NUMBA_CPU_FEATURES="+avx,+f16c,+sse4.2",
        NUMBA_CACHE_DIR=str(tmp_path),
    )
    assert older == digest()
