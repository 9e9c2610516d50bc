"""The weights of one stage as views of arena memory, under leases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType

from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.manifest import Span, TensorRecord
from lite_llm.tiers.arena import Lease
from lite_llm.tiers.memory_tier import HeldRun
from lite_llm.tiers.plan import LoadPlan, Stage


class Layer:
    """Read-only bytes by tensor name and by expert; valid until the load that gave it is closed.

    Shapes and types are in the manifest: ``torch.frombuffer(layer.tensors[name], dtype=...)`` and
    ``numpy.frombuffer`` make arrays without a copy. On a CUDA device each view is a CuPy array of
    bytes instead, from which ``torch.from_dlpack`` makes a tensor without a copy.
    """

    def __init__(self, plan: LoadPlan, stage: Stage, runs: Sequence[HeldRun]) -> None:
        self.index = stage.index
        self._leases: list[Lease] = []
        self._views: list[memoryview] = []
        self._ranges: list[tuple[Span, memoryview]] = []
        for span in stage.spans:
            number, _ = plan.place(span)
            held = runs[number]
            lease = held.block.read(span.offset - held.run.start, span.length)
            self._leases.append(lease)
            self._ranges.append((span, lease.view))
        self.tensors: Mapping[str, memoryview] = MappingProxyType(
            {record.name: self._view(record) for record in stage.tensors}
        )
        self.experts: Mapping[ExpertKey, tuple[memoryview, ...]] = MappingProxyType(
            {expert.key: tuple(map(self._view, expert.parts)) for expert in stage.experts}
        )
        """The parts in the manifest's order: gate, up, down, then scales and biases."""

    def release(self) -> None:
        """Return the leases; :class:`StillLeased` while arrays made from the views are alive."""
        for view in self._views:
            if isinstance(view, memoryview):  # a device's array goes with its last reference
                view.release()
        with ExitStack() as every:
            for lease in self._leases:
                every.callback(lease.release)

    def _view(self, record: TensorRecord) -> memoryview:
        view = self._slice(record.span)
        self._views.append(view)
        return view

    def _slice(self, span: Span) -> memoryview:
        for whole, view in self._ranges:
            if whole.file == span.file and whole.offset <= span.offset and span.end <= whole.end:
                return view[span.offset - whole.offset : span.end - whole.offset]
        return memoryview(b"")  # a tensor without elements
