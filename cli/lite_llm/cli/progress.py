"""What a person sees while models load: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from time import monotonic
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from lite_llm.contracts import format_size
from lite_llm.proto.v1.generate_pb2 import LoadPhase, LoadProgress

WORDS = {
    LoadPhase.LOAD_PHASE_QUEUE: "waiting",
    LoadPhase.LOAD_PHASE_SCHEDULE: "starting a worker",
    LoadPhase.LOAD_PHASE_FETCH: "fetching",
    LoadPhase.LOAD_PHASE_READ: "reading",
    LoadPhase.LOAD_PHASE_TO_GPU: "copying to the GPU",
    LoadPhase.LOAD_PHASE_INIT: "warming up",
    LoadPhase.LOAD_PHASE_FIRST_TOKEN: "first token",
}


class Screen(AbstractContextManager["Screen"], Protocol):
    """Where progress is shown."""

    def show(self, model: str, progress: LoadProgress) -> None:
        """The latest of one model."""
        ...

    def done(self, model: str) -> None:
        """It serves."""
        ...


def open_screen() -> Screen:
    """On standard error."""
    return Bars() if sys.stderr.isatty() else Lines()


class Lines:
    """One line when a phase begins, for logs and pipes."""

    def __init__(self) -> None:
        self._phases: dict[str, int] = {}
        self._since = monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def show(self, model: str, progress: LoadProgress) -> None:
        if self._phases.get(model) == progress.phase:
            return
        self._phases[model] = progress.phase
        self._say(f"{model}: {_words(progress)}")

    def done(self, model: str) -> None:
        self._say(f"{model}: ready after {monotonic() - self._since:.1f} s")

    @staticmethod
    def _say(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


class Bars:
    """A bar for each model."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.fields[model]}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def show(self, model: str, progress: LoadProgress) -> None:
        task = self._task_of(model)
        if progress.total_bytes:
            self._bars.update(task, completed=progress.done_bytes, total=progress.total_bytes)
        self._bars.update(task, description=_words(progress))

    def done(self, model: str) -> None:
        task = self._task_of(model)
        total = self._bars.tasks[self._bars.task_ids.index(task)].total or 1
        self._bars.update(task, completed=total, total=total, description="ready")
        self._bars.stop_task(task)

    def _task_of(self, model: str) -> TaskID:
        if model not in self._tasks:
            self._tasks[model] = self._bars.add_task("", total=None, model=model)
        return self._tasks[model]


def _words(progress: LoadProgress) -> str:
    size = f" {format_size(progress.total_bytes)}" if progress.total_bytes else ""
    return progress.message or WORDS.get(progress.phase, "loading") + size
