"""What this machine can do at best, by torch: the ceilings of all engines."""

from __future__ import annotations

from time import perf_counter

from generation.work import Work

_READ_ELEMENTS = 96 << 20
_SIDE = 1024


def run(work: Work, order: str) -> float:
    """``read``: bytes a second of a large sum. ``gemm``: FLOP a second of a large product."""
    import torch

    torch.set_num_threads(work.threads)
    if order == "read":
        large = torch.ones(_READ_ELEMENTS, dtype=torch.float32)
        return large.nbytes / min(_seconds(large.sum) for _ in range(6))
    square = torch.randn(_SIDE, _SIDE).to(getattr(torch, work.dtype))
    return 2 * _SIDE**3 / min(_seconds(lambda: square @ square) for _ in range(8))


def _seconds(call: object) -> float:
    assert callable(call)
    began = perf_counter()
    call()
    return perf_counter() - began
