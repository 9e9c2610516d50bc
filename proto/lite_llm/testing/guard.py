"""A scratch directory and the processes started in it, both gone when their owner is.

A guard process holds one end of a pipe whose other end only the owner has. When the owner closes
it, or dies of SIGKILL, the guard kills every process that carries its mark in the environment, then
removes the directory. The mark is inherited, so grandchildren in sessions of their own are found.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

MARK = "LITE_LLM_GUARD"
"""Environment variable whose value names the guard that owns a process."""

PORTS = range(12_000, 32_000)
SCAN_SECONDS = (
    0.05  # a child between fork and exec still shows its parent's environment: look again
)


STARTED: Counter[str] = Counter()
"""How often which program was started by this process, for the summary of a test run."""


class MissingServer(RuntimeError):
    """A server that a test needs is not on this machine; the message says what to install."""


class Guard:
    """Owns ``directory`` and every process started by :meth:`spawn`; use as a context manager."""

    def __init__(self, name: str = "lite-llm") -> None:
        self.name = name
        self.mark = uuid.uuid4().hex
        self.directory = Path()
        self._children: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        command = [sys.executable, "-I", __file__, self.mark, str(self.directory)]
        # Without an outer guard's mark: that guard must not kill this one before it has swept.
        env = {name: value for name, value in os.environ.items() if name != MARK}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, env=env, start_new_session=True
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        for child in self._children:
            child.wait()

    def environ(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The caller's environment plus ``extra`` plus the mark."""
        return {**os.environ, **(extra or {}), MARK: self.mark}

    def spawn(
        self, argv: Sequence[str], *, log: str, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start ``argv`` with its output appended to ``directory/log``."""
        with (self.directory / log).open("ab") as output:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environ(env),
                start_new_session=True,
            )
        self._children.append(child)
        STARTED[argv[0]] += 1
        return child

    def undo(self, argv: Sequence[str]) -> None:
        """Run ``argv`` when all is swept: for what is neither a process nor a file."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(list(argv)).encode() + b"\n")
        self._process.stdin.flush()

    def log_tail(self, log: str, *, num_bytes: int = 4000) -> str:
        """The last ``num_bytes`` bytes of a log, for error messages."""
        path = self.directory / log
        return path.read_bytes()[-num_bytes:].decode(errors="replace") if path.exists() else ""


def find_program(name: str, *, remedy: str) -> str:
    """Path of ``name`` on PATH or beside Python; :class:`MissingServer` names the remedy."""
    beside_python = str(Path(sys.executable).parent)  # where `make setup` puts what it fetched
    if path := shutil.which(name) or shutil.which(name, path=beside_python):
        return path
    raise MissingServer(f"{name} is not on PATH: {remedy}")


def free_ports(count: int) -> list[int]:
    """``count`` TCP ports that are free on 127.0.0.1 and that no other test process is told.

    They lie below the ephemeral range, so that no client's connection can take one meanwhile.
    """
    ports: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0lite-llm-port-{port}")  # an abstract name: gone when this process is
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        claim.detach()
        ports.append(port)
        if len(ports) == count:
            return ports
    raise MissingServer(f"fewer than {count} ports are free: wait for other test runs to end")


def marked_processes(mark: str) -> Iterator[int]:
    """Process ids that carry ``mark``, on Linux."""
    wanted = f"{MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # gone meanwhile, or another user's
            continue
        if wanted in variables:
            yield int(entry.name)


def _sweep(mark: str) -> None:
    clean = 0
    while clean < 2:
        found = list(marked_processes(mark))
        clean = 0 if found else clean + 1
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(SCAN_SECONDS)


def _main(mark: str, directory: str) -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    to_undo = list(sys.stdin)  # complete when the last owner of the pipe is gone
    _sweep(mark)
    for line in reversed(to_undo):
        subprocess.run(json.loads(line), check=False)
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2])
