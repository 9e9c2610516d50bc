"""Kernels recorded once and replayed any number of times, with one start for all of them.

A recording runs nothing: it takes down which kernels would run on which addresses. So nothing but
kernels, views and new tensors may occur in it; whatever else torch is asked for is refused. A
replay reads and writes the same memory every time, and each kernel is the very one that would have
run by itself: no bit can differ.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lite_llm.kernels.threads import STEP_WORDS, get_threads, recorded_by, replay

_aten: Any = torch.ops.aten
_NEW = {_aten.empty.memory_format, _aten.new_empty.default}
_VIEWS = {_aten._unsafe_view.default}  # and those that say so themselves


class NotRecordable(Exception):
    """Something other than a kernel was to compute, which a replay would leave out."""


class Memory:
    """Where tensors of recordings lie, of which one is replayed at a time.

    They are handed out by turns: those of a turn may lie where those of the turn before the last
    did.
    """

    def __init__(self) -> None:
        self._blocks: dict[tuple[int, int], Tensor] = {}
        self._turn = self._count = 0
        self._scratch = np.empty(0, np.uint8)

    def turn(self) -> None:
        """What the turn before the last one gave is not needed any more."""
        self._turn, self._count = 1 - self._turn, 0

    def new(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor, contiguous and of any content."""
        key, nbytes = (self._turn, self._count), prod(shape) * dtype.itemsize
        self._count += 1
        block = self._blocks.get(key)
        if block is None or len(block) < nbytes:
            # By powers of two, so that a step with one row more seldom needs another.
            size = 1 << max(6, (nbytes - 1).bit_length())
            self._blocks[key] = block = torch.empty(size, dtype=torch.uint8)
        return block[:nbytes].view(dtype).view(*shape)

    def scratch(self, nbytes: int) -> NDArray[np.uint8]:
        """What kernels write and read before they end: the same for all of them."""
        if len(self._scratch) < nbytes:
            # Not torch's, which would be taken down as a tensor of this turn.
            self._scratch = np.empty(1 << (nbytes - 1).bit_length(), np.uint8)
        return self._scratch


class Recording:
    """Kernels in a row, with the memory that they work on; filled by :func:`recorded`."""

    def __init__(self, memory: Memory) -> None:
        self.threads = get_threads()
        """That a replay uses."""
        self._memory = memory
        self._kept: list[Tensor | array[int] | NDArray[np.uint8]] = []
        self._scratch = np.empty(0, np.uint8)
        self._steps = array("q")

    def replay(self) -> None:
        """Run it, on what its tensors hold now."""
        replay(self._steps, self.threads)

    def add(self, step: list[int]) -> None:
        """A kernel's: see :class:`lite_llm.kernels.threads.Recorder`."""
        self._steps.extend(step)

    def scratch(self, nbytes: int) -> int:
        """Likewise."""
        scratch = self._memory.scratch(nbytes * self.threads + 64)
        if scratch is not self._scratch:
            self._scratch = scratch
            self._kept.append(scratch)
        return (scratch.ctypes.data + 63) // 64 * 64

    def table(self, integers: list[int]) -> int:
        """Likewise."""
        table = array("q", integers)
        self._kept.append(table)
        return table.buffer_info()[0]

    def new(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor for the next kernels."""
        tensor = self._memory.new(shape, dtype)
        self._kept.append(tensor)
        return tensor

    @property
    def num_steps(self) -> int:
        """Kernels so far."""
        return len(self._steps) // STEP_WORDS

    def cut(self, num_steps: int) -> None:
        """Forget all kernels after so many."""
        del self._steps[num_steps * STEP_WORDS :]


@contextmanager
def recorded(recording: Recording) -> Iterator[None]:
    """Add what the calling thread does in the block to a recording; nothing if the block raises.

    :raises NotRecordable: the block asks torch for what is no kernel.
    """
    before = recording.num_steps
    try:
        with recorded_by(recording), _Watch(recording):
            yield
    except BaseException:
        recording.cut(before)
        raise


class _Watch(TorchDispatchMode):
    """Gives new tensors from the recording's memory, and refuses what computes."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's is untyped
        self._recording = recording

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func in _NEW:
            # empty(sizes), or new_empty(tensor, sizes).
            default = args[0].dtype if len(args) == 2 else torch.get_default_dtype()
            return self._recording.new(args[-1], named.get("dtype") or default)
        if func in _VIEWS or getattr(func, "is_view", False):
            return func(*args, **named)
        raise NotRecordable(str(func))
