"""Where a worker's model lies: an accelerator that is really there, or the processor."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.engine.graphs import GRAPH_BYTES

FIELD = "device"
_STEP_BYTES = 1 << 30
"""Kept free for what a step computes with: activations, logits, the compiler's scratch."""


def opened(name: str) -> torch.device:
    """The device of that name: ``cpu``, or ``cuda`` for the first one this process sees.

    Raises :class:`InvalidSettings` for others, and where the device or what reaches it is missing:
    a model that was meant for a GPU is not quietly served by the processor.
    """
    match name:
        case "cpu":
            return torch.device("cpu")
        case "cuda":
            _check_cuda()
            return torch.device("cuda", torch.cuda.current_device())
        case _:
            raise InvalidSettings(
                f"there is no device {name!r}",
                where=FIELD,
                remedy="name cpu or cuda; CUDA_VISIBLE_DEVICES says which GPU that is",
            )


def room_for_pages(device: torch.device) -> int:
    """Bytes of ``device`` that its key-value cache may have, now that weights lie there."""
    free, _ = torch.cuda.mem_get_info(device)
    # Half at least: on a small device graphs are given up before pages are.
    return max(free - GRAPH_BYTES - _STEP_BYTES, free // 2)


def _check_cuda() -> None:
    if not torch.cuda.is_available():
        raise InvalidSettings(
            "torch sees no CUDA device", where=FIELD, remedy="check the driver, or serve on cpu"
        )
    missing = [name for name in ("cupy", "triton") if find_spec(name) is None]
    if missing:
        raise InvalidSettings(
            f"{' and '.join(missing)} is not installed, which a CUDA device is used through",
            where=FIELD,
            remedy="install lite-llm[gpu]",
        )
