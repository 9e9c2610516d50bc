"""The memory that warm pages lie in: the host's, and locked where a device copies from it."""

from __future__ import annotations

from types import TracebackType

import torch
from torch import Tensor

from lite_llm.tiers import HostMemory

_GRANULE = 4096  # bytes; what HostMemory is counted in


class HostPages:
    """As many pages as the budget holds, a row of bytes each; a context manager."""

    def __init__(self, num_bytes: int, page_bytes: int, *, lock: bool) -> None:
        """``lock``: for a device that copies by itself. Raises :class:`OutOfMemory`."""
        self.num_pages = num_bytes // page_bytes
        self.pages_QY: Tensor | None = None
        self._memory: HostMemory | None = None
        if self.num_pages:
            used = self.num_pages * page_bytes
            self._memory = HostMemory(-(-used // _GRANULE) * _GRANULE, lock=lock)
            data = self._memory.view(0, used)
            self.pages_QY = torch.frombuffer(data, dtype=torch.uint8).view(-1, page_bytes)

    def __enter__(self) -> HostPages:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.pages_QY = None  # the last view of it
        if self._memory is not None:
            self._memory.close()
