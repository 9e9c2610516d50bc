"""What a load reads, in which order, and when each layer is complete. Pure.

A model is read in execution order: embeddings, layers by number, then the rest (norm and head).
The bytes wanted from a file are widened to whole chunks and joined into runs; a run becomes one
block of memory in which tensors lie as in the file, so that nothing is ever moved or read twice.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Final

from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.manifest import ExpertRecord, FileRecord, Manifest, Span, TensorRecord
from lite_llm.tiers.chunks import Chunks

REQUEST_BYTES: Final = 8 << 20
"""Of one read: large enough that the disk's bandwidth counts and not its latency."""

FIRST_REQUEST_BYTES: Final = 2 << 20
"""Of reads up to the first layer: many small ones end together, and what comes later, which shares
the wire with the last of them, holds them up less."""

EMBEDDINGS: Final = -1
"""The stage before layer 0."""

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d{1,6})\.")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_\w+|wte|wpe|embeddings?)(?:\.|$)")


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive chunks of one file."""

    file: FileRecord
    chunks: range

    @property
    def start(self) -> int:
        """Offset in the file."""
        return Chunks(self.file).start(self.chunks.start)

    @property
    def num_bytes(self) -> int:
        return Chunks(self.file).start(self.chunks.stop) - self.start

    def is_part_of(self, other: Run) -> bool:
        """Whether ``other`` has all chunks of this run; both are of one file."""
        ours, theirs = self.chunks, other.chunks
        return theirs.start <= ours.start and ours.stop <= theirs.stop


@dataclass(frozen=True, slots=True)
class Request:
    """Consecutive chunks of a run that are read at once."""

    run: int
    """Position in the plan's ``runs``."""
    chunks: range
    stage: int
    num_bytes: int


@dataclass(frozen=True)
class Stage:
    """What must be there before one step of the model can run."""

    index: int
    """:data:`EMBEDDINGS`, a layer's number, or for the head one more than the last layer's."""
    tensors: tuple[TensorRecord, ...]
    experts: tuple[ExpertRecord, ...]
    needs: frozenset[int] = frozenset()
    """Positions in the plan's ``requests``, those that an earlier stage already needs included."""

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """Of all records, those that touch joined, by file and offset."""
        records = [*self.tensors, *(part for expert in self.experts for part in expert.parts)]
        joined: list[Span] = []
        for span in sorted((r.span for r in records), key=lambda span: (span.file, span.offset)):
            last = joined[-1] if joined else None
            if last and last.file == span.file and span.offset <= last.end:
                end = max(last.end, span.end)
                joined[-1] = Span(last.file, last.offset, end - last.offset)
            elif span.length:
                joined.append(span)
        return tuple(joined)


@dataclass(frozen=True)
class LoadPlan:
    """Runs by file and offset; requests and stages in execution order."""

    runs: tuple[Run, ...]
    requests: tuple[Request, ...]
    stages: tuple[Stage, ...]

    @property
    def num_bytes(self) -> int:
        """That will be read, padding and whole chunks included."""
        return sum(request.num_bytes for request in self.requests)

    @cached_property
    def stage_by_index(self) -> dict[int, Stage]:
        return {stage.index: stage for stage in self.stages}

    @cached_property
    def _runs_of(self) -> dict[str, list[int]]:
        runs = defaultdict(list)
        for number, run in enumerate(self.runs):
            runs[run.file.name].append(number)
        return runs

    def place(self, span: Span) -> tuple[int, int]:
        """Which run holds the span, and at which offset of it."""
        for number in self._runs_of[span.file]:
            run = self.runs[number]
            if run.start <= span.offset and span.end <= run.start + run.num_bytes:
                return number, span.offset - run.start
        raise KeyError(span)


def plan_load(
    manifest: Manifest,
    *,
    dense: bool = True,
    wants_expert: Callable[[ExpertKey], bool] = lambda key: True,
) -> LoadPlan:
    """The plan for the dense tensors, if ``dense``, and the experts that are wanted."""
    experts = tuple(record for record in manifest.experts if wants_expert(record.key))
    return _planned(manifest, _stages(manifest, manifest.tensors if dense else (), experts))


def plan_expert(manifest: Manifest, key: ExpertKey) -> LoadPlan:
    """The plan for one expert, without a look at all the others. Raises ``KeyError``."""
    return _planned(manifest, [Stage(key.layer, (), (manifest.expert_by_key[key],))])


def _planned(manifest: Manifest, stages: list[Stage]) -> LoadPlan:
    wanted: dict[str, set[int]] = defaultdict(set)
    for stage in stages:
        for span in stage.spans:
            chunks = Chunks(manifest.file_by_name[span.file])
            wanted[span.file].update(chunks.covering(span.offset, span.length))
    runs = tuple(
        Run(manifest.file_by_name[name], chunks)
        for name in sorted(wanted)
        for chunks in _consecutive(wanted[name])
    )
    return _scheduled({record.name: Chunks(record) for record in manifest.files}, runs, stages)


def stage_of(name: str, last: int) -> int:
    """The stage of a tensor that is no expert's, by its Hugging Face name; ``last`` is the head."""
    if match := _LAYER.search(name):
        return int(match[1])
    return EMBEDDINGS if _EMBEDDING.search(name) else last


def _stages(
    manifest: Manifest, tensors: tuple[TensorRecord, ...], experts: tuple[ExpertRecord, ...]
) -> list[Stage]:
    layers = {int(match[1]) for r in manifest.tensors if (match := _LAYER.search(r.name))}
    layers |= {record.key.layer for record in manifest.experts}
    last = max(layers, default=-1) + 1
    tensors_of: dict[int, list[TensorRecord]] = defaultdict(list)
    experts_of: dict[int, list[ExpertRecord]] = defaultdict(list)
    for tensor in tensors:
        tensors_of[stage_of(tensor.name, last)].append(tensor)
    for expert in experts:
        experts_of[expert.key.layer].append(expert)
    return [
        Stage(index, tuple(tensors_of[index]), tuple(experts_of[index]))
        for index in sorted(tensors_of.keys() | experts_of.keys())
    ]


def _scheduled(grids: dict[str, Chunks], runs: tuple[Run, ...], stages: list[Stage]) -> LoadPlan:
    run_of: dict[tuple[str, int], int] = {}
    for number, run in enumerate(runs):
        run_of.update(((run.file.name, chunk), number) for chunk in run.chunks)
    request_of: dict[tuple[str, int], int] = {}
    requests: list[Request] = []
    complete = []
    # Of one stage alone everything is waited for: nothing else shares the wire.
    layers = [stage.index for stage in stages if stage.index != EMBEDDINGS]
    first = min(layers) if len(layers) > 1 else EMBEDDINGS - 1
    for stage in stages:
        cells = {
            (span.file, chunk)
            for span in stage.spans
            for chunk in grids[span.file].covering(span.offset, span.length)
        }
        request_bytes = FIRST_REQUEST_BYTES if stage.index <= first else REQUEST_BYTES
        fresh: dict[str, set[int]] = defaultdict(set)
        for file, chunk in cells - request_of.keys():
            fresh[file].add(chunk)
        for file in sorted(fresh):
            for stretch in _consecutive(fresh[file]):
                home = run_of[file, stretch.start]
                for part in _pieces(grids[file], stretch, request_bytes):
                    for chunk in part:
                        request_of[file, chunk] = len(requests)
                    num_bytes = grids[file].start(part.stop) - grids[file].start(part.start)
                    requests.append(Request(home, part, stage.index, num_bytes))
        needs = frozenset(request_of[cell] for cell in cells)
        complete.append(Stage(stage.index, stage.tensors, stage.experts, needs))
    return LoadPlan(runs, tuple(requests), tuple(complete))


def _pieces(chunks: Chunks, stretch: range, request_bytes: int) -> Iterable[range]:
    step = max(1, request_bytes // chunks.size)
    for start in range(stretch.start, stretch.stop, step):
        yield range(start, min(start + step, stretch.stop))


def _consecutive(numbers: Iterable[int]) -> Iterable[range]:
    for _, group in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        stretch = [number for _, number in group]
        yield range(stretch[0], stretch[-1] + 1)
