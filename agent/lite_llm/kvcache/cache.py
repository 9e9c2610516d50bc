"""The owner of all pages on one device: decides by the ledger, moves by the mover."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.kernels import LayerPages, Rows
from lite_llm.kvcache.claim import Rates, best_length, window_pages
from lite_llm.kvcache.device_pages import DevicePages
from lite_llm.kvcache.failures import NotResident, PageLeaked
from lite_llm.kvcache.groups import group_layers
from lite_llm.kvcache.host_pages import HostPages
from lite_llm.kvcache.layout import KvLayout
from lite_llm.kvcache.ledger import Ledger
from lite_llm.kvcache.mover import Mover
from lite_llm.kvcache.page_codec import PageCodec, PageFormat
from lite_llm.kvcache.page_file import DiskPages, PageFile
from lite_llm.kvcache.predict import Prediction, most_held, peak_pages
from lite_llm.kvcache.sequence import CachedSequence
from lite_llm.kvcache.tree import Node, Page, Place

_AHEAD = 32  # one part in so many of the device is kept free where evicted pages have a place to go


class KvCache:
    """Use as a context manager, on one thread: the one that computes."""

    def __init__(
        self,
        layout: KvLayout,
        *,
        device_bytes: int,
        host_bytes: int = 0,
        disk: DiskPages | None = None,
        page_tokens: int = 16,
        device: str | torch.device = "cpu",
        old_pages: PageFormat = PageFormat.EXACT,
        deterministic: bool = True,
    ) -> None:
        """``old_pages``: of those that leave the device; another format than the exact one holds
        more and changes answers, so :class:`InvalidSettings` says that ``deterministic`` is in the
        way. Raises :class:`OutOfMemory` where ``device_bytes`` hold not even one page a group."""
        if deterministic and old_pages is not PageFormat.EXACT:
            raise InvalidSettings(
                f"pages kept as {old_pages} make answers depend on what was cached",
                where="kvcache",
                remedy="keep pages exact, or turn the deterministic mode off",
            )
        self.layout = layout
        self.page_tokens = page_tokens
        self.groups = group_layers(layout, page_tokens)
        self.device = torch.device(device)
        self.token_seconds: float | None = None
        """What computing one prompt token takes, for the engine to say: then a prefix is brought
        from host or disk only where that is measured to be faster. None: always brought."""
        self.on_arrival: Callable[[], None] = _nothing
        """Called by a thread of the cache's when sequences that waited for the disk may be ready:
        for whoever sleeps meanwhile."""
        self._closing = ExitStack()
        self._memory = DevicePages(
            layout,
            self.groups,
            num_bytes=device_bytes,
            page_tokens=page_tokens,
            device=self.device,
        )
        with ExitStack() as opened:
            pages_PX = self._memory.pages_PX
            codec = PageCodec(old_pages, self._memory.page_elements, layout.dtype)
            host = opened.enter_context(
                HostPages(host_bytes, codec.num_bytes, lock=pages_PX.is_cuda)
            )
            file = opened.enter_context(PageFile(disk, codec.num_bytes)) if disk else None
            self._mover = Mover(
                pages_PX, host.pages_QY, file, codec, read=lambda: self.on_arrival()
            )
            opened.callback(self._mover.close)
            self._closing = opened.pop_all()
        windows = [group.window for group in self.groups]
        capacity = [self.num_pages, host.num_pages, file.num_pages if file else 0]
        self.ledger = Ledger(capacity, windows)
        self._num_seen = [None if w is None else window_pages(w, page_tokens) for w in windows]
        self._sequences: set[CachedSequence] = set()
        self._waiting: dict[CachedSequence, list[int]] = {}

    @property
    def num_pages(self) -> int:
        """On the device. A page holds ``page_tokens`` tokens of one group of layers."""
        return self._memory.num_pages

    @property
    def num_free_pages(self) -> int:
        """On the device, that nothing lies in."""
        return self.ledger.num_free(Place.DEVICE)

    @property
    def num_evictable_pages(self) -> int:
        """On the device, that no sequence uses: admission may count on these and the free ones."""
        return self.ledger.num_idle(Place.DEVICE)

    def pages_for(self, num_tokens: int, *, step_tokens: int = 1) -> int:
        """The most pages that a sequence of so many tokens ever holds, if no step reserves more
        than ``step_tokens``. What it shares is counted in."""
        return sum(
            most_held(num_tokens, group.window, self.page_tokens, step_tokens=step_tokens)
            for group in self.groups
        )

    def peak_pages(self, predictions: Sequence[Prediction]) -> int:
        """The most pages that the sequences running now, and those to be admitted, will hold at
        once, if they end as predicted: compare with :attr:`num_pages`. While a long part of a
        prompt is computed, groups with a window hold more for that step."""
        return peak_pages(
            predictions,
            windows=[group.window for group in self.groups],
            page_tokens=self.page_tokens,
            num_shared_pages=self.ledger.num_shared,
        )

    def num_cached(self, tokens: Sequence[int], *, salt: bytes) -> int:
        """Tokens that :meth:`sequence` would find computed now; changes nothing."""
        return len(self._find(tokens, salt)) * self.page_tokens

    def sequence(self, tokens: Sequence[int], *, salt: bytes) -> CachedSequence:
        """A sequence that begins with the longest prefix of ``tokens`` that is cached.

        Whole pages, and at least one token is left to compute: its logits are wanted. ``salt``
        names who may find what, so that tenants can't learn of each other's prompts. A prefix in
        host memory or on disk is on its way when this returns, and takes room on the device.
        """
        sequence = CachedSequence(self, salt)
        self._claim(sequence, tokens, self._find(tokens, salt))
        self.add(sequence)
        return sequence

    def batch(self, parts: Sequence[tuple[CachedSequence, int]]) -> tuple[LayerPages, ...]:
        """For the next ``n`` tokens of each sequence, one :class:`LayerPages` a layer.

        Rows are the tokens of the first sequence, then those of the second, and so on. Raises
        :class:`NotResident` for a sequence that has not reserved as much, is swapped out or waits
        for the disk.
        """
        for sequence, num_tokens in parts:
            if not sequence.has_room(num_tokens) or (self._waiting and not sequence.is_ready):
                raise NotResident(
                    f"{num_tokens} tokens are to be computed without room", where="kvcache"
                )
        counts = np.array([num_tokens for _, num_tokens in parts], dtype=np.int64)
        begins = np.array([sequence.num_computed for sequence, _ in parts], dtype=np.int64)
        firsts = np.cumsum(counts) - counts
        sequence_T = self._tensor(np.repeat(np.arange(len(parts)), counts))
        position_T = self._tensor(np.arange(counts.sum()) - np.repeat(firsts - begins, counts))
        used = (-(-(begins + counts) // self.page_tokens)).tolist()
        per_layer: dict[int, LayerPages] = {}
        for index, group in enumerate(self.groups):
            table_SN = np.zeros((len(parts), max(used, default=1)), dtype=np.int32)
            for row, (sequence, _) in enumerate(parts):
                table_SN[row, : used[row]] = sequence.tables[index][: used[row]]
            self._mover.wait(table_SN.reshape(-1))
            rows = Rows(sequence_T, position_T, self._tensor(table_SN))
            for layer in group.layers:
                per_layer[layer] = LayerPages(self._memory.kv[layer], rows)
        self.ledger.keep_free(self.num_pages // _AHEAD)
        self._move()
        return tuple(per_layer[layer] for layer in range(len(self.layout.layers)))

    def check(self) -> None:
        """Raises :class:`PageLeaked` unless in each place every slot is free or has one page, and
        each page is held by just those sequences that have it."""
        self.ledger.check(page for sequence in self._sequences for page in sequence.held())
        out = Counter(
            page
            for sequence in self._sequences
            if sequence.is_swapped_out
            for page in sequence.held()
        )
        for sequence in self._sequences:
            if any(page.num_out != out[page] for page in sequence.held()):
                raise PageLeaked("a page's swapped out holders are miscounted", where="kvcache")
            if not sequence.is_swapped_out and not sequence.is_resident():
                raise PageLeaked("a sequence's table is not true", where="kvcache")

    def close(self) -> None:
        """Finish moves under way and give the memory back. Sequences are void."""
        self._closing.close()

    def __enter__(self) -> KvCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    # What follows is for sequences.

    def take(self, groups: Sequence[int]) -> list[Page] | None:
        """A zeroed page on the device for each group."""
        pages = self.ledger.take(groups)
        self._move()
        if pages:
            slots = [page.slot for page in pages]
            self._mover.wait(slots)
            # What is masked is multiplied by zero still, and zero times another's NaN is NaN.
            self._memory.pages_PX[slots] = 0
        return pages

    def bring(self, pages: Sequence[Page], place: Place) -> bool:
        """Start moving held pages to ``place``."""
        came = self.ledger.bring(pages, place)
        self._move()
        return came

    def copy(self, source: Page, target: Page) -> None:
        """Of pages on the device, the contents."""
        self._mover.wait([source.slot, target.slot])
        self._memory.pages_PX[target.slot] = self._memory.pages_PX[source.slot]

    def add(self, sequence: CachedSequence) -> None:
        """It holds pages from now on."""
        self._sequences.add(sequence)

    def remove(self, sequence: CachedSequence) -> None:
        """It holds none any more."""
        self._sequences.discard(sequence)
        self._waiting.pop(sequence, None)

    def catch_up(self, sequence: CachedSequence, tokens: Sequence[int]) -> None:
        """Claim again, if others have computed more of ``tokens`` meanwhile."""
        nodes = self._find(tokens, sequence.salt)
        if len(nodes) * self.page_tokens > sequence.num_computed:
            self._claim(sequence, tokens, nodes)

    def is_ready(self, sequence: CachedSequence) -> bool:
        """Whether nothing of it is still being read from disk."""
        if sequence in self._waiting:
            self._settle()
        return sequence not in self._waiting

    def _find(self, tokens: Sequence[int], salt: bytes) -> list[Node]:
        most = (len(tokens) - 1) // self.page_tokens
        nodes = self.ledger.tree.walk(salt, tokens, self.page_tokens, most)
        rates = Rates()
        if self.token_seconds is not None:
            host, disk = self._mover.host_pace, self._mover.disk_pace
            rates = Rates(
                host_page_seconds=host.page_seconds,
                disk_page_seconds=disk.page_seconds,
                token_seconds=self.token_seconds,
            )
        room = self.num_free_pages + self.num_evictable_pages
        length = best_length(
            nodes, self._num_seen, room=room, page_tokens=self.page_tokens, rates=rates
        )
        return nodes[:length]

    def _claim(
        self, sequence: CachedSequence, tokens: Sequence[int], nodes: Sequence[Node]
    ) -> None:
        pages: list[list[Page | None]] = []
        for group, seen in enumerate(self._num_seen):
            begin = 0 if seen is None else max(0, len(nodes) - seen)
            behind: list[Page | None] = [None] * begin
            pages.append([*behind, *(node.pages[group] for node in nodes[begin:])])
        found = tokens[: len(nodes) * self.page_tokens]
        sequence.begin_with(found, pages, nodes[-1] if nodes else None)
        if any(page.is_arriving for page in sequence.held()):
            self._waiting[sequence] = list(tokens)
        else:
            self._waiting.pop(sequence, None)

    def _settle(self) -> None:
        for page, is_whole in self._mover.arrived():
            page.is_arriving = False
            if not is_whole:
                self.ledger.lose(page)
        for sequence, tokens in list(self._waiting.items()):
            held = sequence.held()
            if any(page.is_lost for page in held):
                self._claim(sequence, tokens, self._find(tokens, sequence.salt))
            elif not any(page.is_arriving for page in held):
                del self._waiting[sequence]

    def _move(self) -> None:
        if self.ledger.moves:
            self._mover.start(self.ledger.moves)
            self.ledger.moves = []

    def _tensor(self, array: NDArray[np.integer]) -> Tensor:
        return torch.from_numpy(array.astype(np.int32)).to(self.device, non_blocking=True)


def _nothing() -> None:
    """Nobody sleeps."""
