"""The owner of all pages on one device."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from lite_llm.kernels import LayerPages, Rows
from lite_llm.kvcache.device_pages import DevicePages
from lite_llm.kvcache.failures import NotResident, PageLeaked
from lite_llm.kvcache.groups import group_layers
from lite_llm.kvcache.layout import KvLayout
from lite_llm.kvcache.sequence import CachedSequence


class KvCache:
    """Use as a context manager, on one thread: the one that computes."""

    def __init__(
        self,
        layout: KvLayout,
        *,
        device_bytes: int,
        host_bytes: int = 0,
        page_tokens: int = 16,
        device: str | torch.device = "cpu",
    ) -> None:
        """Raises :class:`OutOfMemory` where ``device_bytes`` hold not even one page a group."""
        self.layout = layout
        self.page_tokens = page_tokens
        self.groups = group_layers(layout, page_tokens)
        self.device = torch.device(device)
        self._memory = DevicePages(
            layout,
            self.groups,
            num_bytes=device_bytes,
            page_tokens=page_tokens,
            device=self.device,
        )
        self._free = list(range(self.num_pages))[::-1]
        self._sequences: set[CachedSequence] = set()

    @property
    def num_pages(self) -> int:
        """On the device. A page holds ``page_tokens`` tokens of one group of layers."""
        return self._memory.num_pages

    @property
    def num_free_pages(self) -> int:
        """That nothing lies in."""
        return len(self._free)

    @property
    def num_evictable_pages(self) -> int:
        """That hold what no sequence uses: admission may count on these and the free ones."""
        return 0

    def pages_for(self, num_tokens: int) -> int:
        """The most pages that a sequence of so many tokens holds at once, found prefix or not."""
        return sum(
            -(-num_tokens // self.page_tokens)
            if group.window is None
            else min(-(-num_tokens // self.page_tokens), -(-group.window // self.page_tokens) + 1)
            for group in self.groups
        )

    def num_cached(self, tokens: Sequence[int], *, salt: bytes) -> int:
        """Tokens that :meth:`sequence` would find computed now; changes nothing."""
        return 0

    def sequence(self, tokens: Sequence[int], *, salt: bytes) -> CachedSequence:
        """A sequence that begins with the longest prefix of ``tokens`` that is cached.

        Whole pages, and at least one token is left to compute: its logits are wanted. ``salt``
        names who may find what, so that tenants can't learn of each other's prompts.
        """
        sequence = CachedSequence(self, salt)
        self._sequences.add(sequence)
        return sequence

    def batch(self, parts: Sequence[tuple[CachedSequence, int]]) -> tuple[LayerPages, ...]:
        """For the next ``n`` tokens of each sequence, one :class:`LayerPages` a layer.

        Rows are the tokens of the first sequence, then those of the second, and so on. Raises
        :class:`NotResident` for a sequence that has not reserved as much or is swapped out.
        """
        for sequence, num_tokens in parts:
            if not sequence.has_room(num_tokens):
                raise NotResident(
                    f"{num_tokens} tokens are to be computed without room", where="kvcache"
                )
        counts = np.array([num_tokens for _, num_tokens in parts], dtype=np.int64)
        begins = np.array([sequence.num_computed for sequence, _ in parts], dtype=np.int64)
        sequence_T = np.repeat(np.arange(len(parts), dtype=np.int32), counts)
        firsts = np.cumsum(counts) - counts
        position_T = (np.arange(counts.sum()) - np.repeat(firsts - begins, counts)).astype(np.int32)
        rows_sequence, rows_position = self._tensor(sequence_T), self._tensor(position_T)
        most = -(-int((begins + counts).max(initial=0)) // self.page_tokens)
        per_layer: dict[int, LayerPages] = {}
        for index, group in enumerate(self.groups):
            table_SN = np.zeros((len(parts), most), dtype=np.int32)
            for row, (sequence, num_tokens) in enumerate(parts):
                used = -(-(sequence.num_computed + num_tokens) // self.page_tokens)
                table_SN[row, :used] = sequence.pages[index][:used]
            rows = Rows(rows_sequence, rows_position, self._tensor(table_SN))
            for layer in group.layers:
                per_layer[layer] = LayerPages(self._memory.kv[layer], rows)
        return tuple(per_layer[layer] for layer in range(len(self.layout.layers)))

    def _tensor(self, array: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def take(self, num_pages: int) -> list[int] | None:
        """Sequences': so many pages, zeroed, or None."""
        if num_pages > len(self._free):
            return None
        taken = [self._free.pop() for _ in range(num_pages)]
        self._memory.pages_PX[taken] = 0
        return taken

    def give(self, pages: Sequence[int]) -> None:
        """Sequences': the inverse of :meth:`take`."""
        self._free.extend(pages)

    def copy(self, source: int, target: int) -> None:
        """Sequences': copy on write."""
        self._memory.pages_PX[target] = self._memory.pages_PX[source]

    def forget(self, sequence: CachedSequence) -> None:
        """Sequences': the inverse of :meth:`sequence`."""
        self._sequences.discard(sequence)

    def check(self) -> None:
        """Raises :class:`PageLeaked` unless every page is free, held or cached, exactly once."""
        seen = sorted(
            [*self._free, *(p for s in self._sequences for pages in s.pages for p in pages)]
        )
        if seen != list(range(self.num_pages)):
            raise PageLeaked("pages are lost or held twice", where="kvcache")

    def close(self) -> None:
        """Give the memory back. Sequences are void."""
        self._sequences.clear()

    def __enter__(self) -> KvCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()
