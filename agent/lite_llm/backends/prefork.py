"""Workers without their start: a process that has imported everything, and forks.

Most of a worker's start is the same each time: importing torch and loading kernels. This program
does it once. For each worker it then forks, which takes milliseconds and shares the memory of what
was imported. It has one thread and no device open, or it refuses to serve: what a fork takes along
of other threads is their locks, held for ever. Linux only.

Its control is a ``SOCK_SEQPACKET`` socket; :mod:`lite_llm.backends.forked` has the other end.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

REQUEST_BYTES: Final = 64 << 10
ENVIRONMENT: Final = {
    "OPENBLAS_NUM_THREADS": "1",  # numpy's would start its threads at import
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # whether there is a GPU, without opening it
}
"""To start this program with, and so what its workers have."""


class _Forks:
    """The loop of the one process; a fork leaves it with what it is to run."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that it wakes the poll below
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C in a terminal is for our starter

    def serve(self) -> list[str] | None:
        """None when the control is gone; in a fork, the arguments of its worker."""
        waiting = select.poll()
        waiting.register(self._control, select.POLLIN)
        waiting.register(self._woken, select.POLLIN)
        self._tell({"ready": True})
        while True:
            for descriptor, _ in waiting.poll():
                if descriptor == self._woken:
                    os.read(self._woken, 4096)
                    self._bury()
                    continue
                data, files, _, _ = socket.recv_fds(self._control, REQUEST_BYTES, 2)
                if not data:
                    return None
                pid = os.fork()
                if pid == 0:
                    return self._become(json.loads(data), files)
                worker = os.pidfd_open(pid)  # while it can't be anybody else
                self._tell({"pid": pid}, worker)
                for file in (worker, *files):
                    os.close(file)

    def _become(self, arguments: list[str], files: list[int]) -> list[str]:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._control.close()
        os.close(self._woken)
        os.close(self._wake)
        os.setsid()
        lifeline, output = files
        for standard in (1, 2):
            os.dup2(output, standard)
        os.close(output)
        return [*arguments, "--lifeline", str(lifeline)]

    def _bury(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = found
                self._tell({"ended": pid, "status": os.waitstatus_to_exitcode(status)})

    def _tell(self, words: dict[str, Any], *files: int) -> None:
        with contextlib.suppress(OSError):  # it is gone, as the next read finds out
            socket.send_fds(self._control, [json.dumps(words).encode()], files)


def _num_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def _is_device_open() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def main(arguments: Sequence[str] | None = None) -> None:
    """Import, then fork until the control is gone; each fork runs the module's ``main``."""
    parser = argparse.ArgumentParser(prog="lite_llm.backends.prefork")
    parser.add_argument("--control", type=int, required=True, help="inherited socket")
    parser.add_argument("--module", required=True, help="whose main(arguments) a worker is")
    parser.add_argument("--call", action="append", default=[], help="MODULE:FUNCTION, before")
    given = parser.parse_args(arguments)
    module = importlib.import_module(given.module)
    for call in given.call:
        name, _, function = call.partition(":")
        getattr(importlib.import_module(name), function)()
    if _num_threads() > 1 or _is_device_open():
        sys.exit("prefork: what was imported has started threads or opened a device")
    gc.collect()
    gc.freeze()  # so that a collection in a worker touches, and copies, nothing of this
    control = socket.socket(fileno=given.control)
    control.set_inheritable(False)
    wanted = _Forks(control).serve()
    if wanted is not None:
        raise SystemExit(module.main(wanted))


if __name__ == "__main__":
    main()
