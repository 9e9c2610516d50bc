"""The memory that warm pages lie in: the host's, and locked where a device copies from it."""

from __future__ import annotations

from types import TracebackType

import torch
from torch import Tensor

from lite_llm.tiers import HostMemory

_GRANULE = 4096


class HostPages:
    """As many pages as the budget holds, shaped like the device's; a context manager."""

    def __init__(self, num_bytes: int, like_PX: Tensor) -> None:
        self._like_PX = like_PX
        self.num_pages = num_bytes // (like_PX.shape[1] * like_PX.element_size())
        self.pages_PX: Tensor | None = None
        self._memory: HostMemory | None = None
        if self.num_pages:
            total = -(-num_bytes // _GRANULE) * _GRANULE
            self._memory = HostMemory(total, lock=like_PX.is_cuda)
            count = self.num_pages * like_PX.shape[1]
            data = self._memory.view(0, count * like_PX.element_size())
            self.pages_PX = torch.frombuffer(data, dtype=like_PX.dtype).view(-1, like_PX.shape[1])

    def __enter__(self) -> HostPages:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.pages_PX = None  # the last view of it
        if self._memory is not None:
            self._memory.close()
