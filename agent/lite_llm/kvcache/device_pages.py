"""The memory that pages lie in on the device, and each layer's view of it.

Legend: P pages, G key heads, B tokens of a page, C and E dimensions of a key and a value.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lite_llm.contracts.errors import OutOfMemory
from lite_llm.contracts.resources import format_size
from lite_llm.kernels import PagedKv
from lite_llm.kvcache.groups import Group
from lite_llm.kvcache.layout import KvLayout
from lite_llm.tiers import HostMemory

_GRANULE = 4096  # bytes; what HostMemory is counted in


class DevicePages:
    """As many pages as the budget holds; each is one contiguous block, so that it moves as one."""

    def __init__(
        self,
        layout: KvLayout,
        groups: Sequence[Group],
        *,
        num_bytes: int,
        page_tokens: int,
        device: torch.device,
    ) -> None:
        """Raises :class:`OutOfMemory` where not even one page a group has room."""
        self.page_elements = max(group.elements for group in groups)
        self.page_bytes = self.page_elements * layout.dtype.itemsize
        self.num_pages = num_bytes // self.page_bytes
        if self.num_pages < len(groups):
            raise OutOfMemory(
                f"{format_size(num_bytes)} hold {self.num_pages} pages of "
                f"{format_size(self.page_bytes)}, and {page_tokens} tokens need {len(groups)}",
                where="kvcache",
                remedy="give the model's key-value cache more memory",
            )
        zeros = _zeros(self.num_pages * self.page_bytes, device)
        self.pages_PX: Tensor = zeros.view(layout.dtype).view(self.num_pages, self.page_elements)
        self.kv = tuple(self._views(layout, groups, page_tokens))

    def _views(self, layout: KvLayout, groups: Sequence[Group], page_tokens: int) -> list[PagedKv]:
        views: dict[int, PagedKv] = {}
        for group in groups:
            for number, part in zip(group.layers, group.parts, strict=True):
                layer = layout.layers[number]
                keys = self._view(part.keys_at, layer.kv_heads, page_tokens, layer.key_dim)
                values = (
                    keys[..., : layer.value_dim]
                    if layer.shared
                    else self._view(part.values_at, layer.kv_heads, page_tokens, layer.value_dim)
                )
                views[number] = PagedKv(keys, values)
        return [views[number] for number in range(len(layout.layers))]

    def _view(self, begin: int, heads: int, tokens: int, width: int) -> Tensor:
        return self.pages_PX.as_strided(
            (self.num_pages, heads, tokens, width),
            (self.page_elements, tokens * width, width, 1),
            begin,
        )


def _zeros(num_bytes: int, device: torch.device) -> Tensor:
    """Bytes. Zeros, as a page that was never written is read, masked, up to its end."""
    if device.type != "cpu":
        try:
            return torch.zeros(num_bytes, dtype=torch.uint8, device=device)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"{device} has no {format_size(num_bytes)} left for the key-value cache",
                where="kvcache",
                remedy="give the cache less, or the model a larger device",
            ) from error
    # Not torch.zeros, which writes every page: a budget that nobody uses yet costs nothing.
    memory = HostMemory(-(-num_bytes // _GRANULE) * _GRANULE, lock=False)
    return torch.frombuffer(memory.view(0, num_bytes), dtype=torch.uint8)
