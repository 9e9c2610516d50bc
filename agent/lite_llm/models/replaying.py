"""Steps in which each sequence has one row, as in nearly all: recorded once, then replayed.

Where tokens are made one by one, most of a step would be the starting of kernels. Recordings are
kept by the number of rows; before a replay the step's own numbers are copied to where they read.
Legend: T rows of a step, D hidden, N pages of the longest sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lite_llm.kernels import (
    LayerPages,
    Memory,
    NotRecordable,
    Recording,
    Rows,
    get_threads,
    is_fast,
    recorded,
)
from lite_llm.models.rope import RopeConfig, Rotation

MAX_ROWS = 64
"""With more, multiplying takes so long that nothing is gained."""


@dataclass(frozen=True)
class Inputs:
    """What a step brings to all layers; rows are shared by layers with the same pages."""

    rotations: Mapping[RopeConfig, Rotation]
    pages: Sequence[LayerPages]


@runtime_checkable
class Recordable(Protocol):
    """A block that starts the same kernels whatever the numbers are, and nothing else."""

    recordable: bool


@dataclass(frozen=True)
class Stage:
    """A part of the forward pass: ``[T, D]`` to ``[T, D]``."""

    run: Callable[[Tensor], Tensor]
    recordable: bool


Stages = Callable[[Inputs], Iterable[Stage]]


class Replays:
    """The recordings of a decoder, for one thread at a time."""

    def __init__(self) -> None:
        self._memory = Memory()
        self._by_rows: dict[int, _Replay | None] = {}

    def run(self, x_TD: Tensor, inputs: Inputs, stages: Stages) -> Tensor | None:
        """All stages one after another; None if this step is not one to be recorded.

        The first step of so many rows is not: there may be no second one.
        """
        rows = len(x_TD)
        if not (0 < rows <= MAX_ROWS and x_TD.is_cpu and not is_fast()):
            return None
        if len(set(inputs.pages[0].rows.sequence_T.tolist())) != rows:
            return None
        if rows not in self._by_rows:
            self._by_rows[rows] = None
            return None
        replay = self._by_rows[rows]
        if replay is None or not replay.fits(inputs):
            replay = _Replay(x_TD, inputs, stages, self._memory)
            self._by_rows[rows] = replay
        return replay.run(x_TD, inputs)


class _Replay:
    """Stages recorded with places for their inputs; what can't be recorded stands in between."""

    def __init__(
        self,
        x_TD: Tensor,
        inputs: Inputs,
        stages: Stages,
        memory: Memory,
    ) -> None:
        self._threads, self._memory = get_threads(), memory
        self._x_TD = torch.empty_like(x_TD)
        self._rotations = {
            rope: Rotation(torch.empty_like(turn.cos_TR), torch.empty_like(turn.sin_TR))
            for rope, turn in inputs.rotations.items()
        }
        rows = _distinct(inputs.pages)
        self._rows = [_room_for(each) for each in rows]
        self._pages = [
            LayerPages(each.kv, self._rows[_place(each.rows, rows)]) for each in inputs.pages
        ]
        self._parts: list[Recording | _Apart] = []
        self._out_TD = self._x_TD
        for stage in stages(Inputs(self._rotations, self._pages)):
            memory.turn()
            self._out_TD = self._add(stage, self._out_TD)

    def fits(self, inputs: Inputs) -> bool:
        """Whether the recording is of these pages and threads, with room for their lists."""
        rows = _distinct(inputs.pages)
        return (
            get_threads() == self._threads
            and len(rows) == len(self._rows)
            and all(
                own.pages_SN.shape[1] >= theirs.pages_SN.shape[1]
                for own, theirs in zip(self._rows, rows, strict=True)
            )
            and all(
                own.kv is theirs.kv and own.rows is self._rows[_place(theirs.rows, rows)]
                for own, theirs in zip(self._pages, inputs.pages, strict=True)
            )
        )

    def run(self, x_TD: Tensor, inputs: Inputs) -> Tensor:
        """On a step's own numbers."""
        self._x_TD.copy_(x_TD)
        for rope, turn in self._rotations.items():
            turn.cos_TR.copy_(inputs.rotations[rope].cos_TR)
            turn.sin_TR.copy_(inputs.rotations[rope].sin_TR)
        for own, theirs in zip(self._rows, _distinct(inputs.pages), strict=True):
            own.position_T.copy_(theirs.position_T)
            pages_TN = theirs.pages_SN.index_select(0, theirs.sequence_T)
            own.pages_SN[:, : pages_TN.shape[1]] = pages_TN
        for part in self._parts:
            part.replay()
        return self._out_TD.clone()

    def _add(self, stage: Stage, x_TD: Tensor) -> Tensor:
        if stage.recordable:
            last = self._parts[-1] if self._parts else None
            recording = last if isinstance(last, Recording) else Recording(self._memory)
            with suppress(NotRecordable), recorded(recording):
                y_TD = stage.run(x_TD)
                if recording is not last:
                    self._parts.append(recording)
                return y_TD
        y_TD = self._memory.new(x_TD.shape, x_TD.dtype)
        self._parts.append(_Apart(stage.run, x_TD, y_TD))
        return y_TD


@dataclass(frozen=True)
class _Apart:
    """A stage that runs by itself, between two recordings."""

    run: Callable[[Tensor], Tensor]
    x_TD: Tensor
    y_TD: Tensor

    def replay(self) -> None:
        self.y_TD.copy_(self.run(self.x_TD))


def _distinct(pages: Sequence[LayerPages]) -> list[Rows]:
    """In the order of the first layers that use them."""
    return list({id(each.rows): each.rows for each in pages}.values())


def _place(rows: Rows, among: list[Rows]) -> int:
    return next(place for place, each in enumerate(among) if each is rows)


def _room_for(rows: Rows) -> Rows:
    """As many rows, each of a sequence of its own, with lists of pages that may grow."""
    length, pages = len(rows.sequence_T), rows.pages_SN.shape[1]
    lists_TN = torch.zeros(length, 1 << pages.bit_length(), dtype=torch.int32)
    sequence_T = torch.arange(length, dtype=torch.int32)
    return Rows(sequence_T, torch.zeros_like(sequence_T), lists_TN)
