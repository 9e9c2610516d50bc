"""The ``lite-llm`` command as a real process, with a scratch directory for whatever it leaves."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from lite_llm.testing.guard import Guard

LITE_LLM = Path(sys.executable).with_name("lite-llm")
START_SECONDS = 120.0  # importing torch on a busy machine
PROBE_SECONDS = 0.05


class Command:
    """One process; its home and temporary files lie in :attr:`scratch`."""

    def __init__(self, guard: Guard, *arguments: str, name: str = "lite-llm") -> None:
        """``name`` is unique in ``guard``."""
        self.scratch = guard.directory / f"{name}.scratch"
        self.scratch.mkdir()
        self._guard = guard
        self._log = f"{name}.log"
        env = {"TMPDIR": str(self.scratch), "HOME": str(self.scratch)}
        self.process = guard.spawn([str(LITE_LLM), *arguments], log=self._log, env=env)

    @property
    def output(self) -> str:
        """What it wrote so far, to either stream."""
        return self._guard.log_tail(self._log, num_bytes=1 << 20)

    def wait_said(self, words: str) -> None:
        """Return when it has written ``words``; ``RuntimeError`` if it ends or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while words not in self.output:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"never said {words!r}:\n{self.output}")
            time.sleep(PROBE_SECONDS)

    def wait_ended(self) -> int:
        """Its exit status."""
        return self.process.wait(START_SECONDS)

    def terminated(self) -> int:
        """Its exit status after SIGTERM."""
        self.process.terminate()
        return self.wait_ended()
