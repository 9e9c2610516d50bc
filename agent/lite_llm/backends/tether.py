"""A program that runs another one and outlives nothing: neither its starter, nor its own child.

It is run by its path, ``tether.py PROGRAM [ARGUMENT ...]``, and imports nothing of ours. Standard
input is the lifeline: when it ends, by whatever death of the starter, the program and everything
that it started are killed. When the program ends, what it left behind is killed, too, and the
tether ends in the same way. SIGTERM and SIGINT are passed on to the program. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
from pathlib import Path
from typing import NoReturn

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
NOT_FOUND = 127  # what a shell says of a program that is not there

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl failed")


def _become(arguments: list[str], tether: int) -> NoReturn:
    """In the child: the program, which the kernel kills if the tether itself is killed."""
    try:
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != tether:  # it died before it could be waited for
            os._exit(NOT_FOUND)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.execvp(arguments[0], arguments)
    except OSError as error:
        sys.stderr.write(f"{arguments[0]} can't be run: {error.strerror}\n")
        sys.stderr.flush()
    os._exit(NOT_FOUND)


def _reaped(program: int) -> int | None:
    """Collect the dead; the wait status of ``program`` if it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            if found[0] == program:
                status = found[1]
    return status


def _kill_all() -> None:
    """Orphans become our children, so this goes down the tree until none is left."""
    children = Path("/proc/self/task") / str(os.getpid()) / "children"
    with contextlib.suppress(ChildProcessError):
        while True:
            for pid in children.read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            os.waitpid(-1, 0)


def _end_as(status: int) -> NoReturn:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the program has left its own
        if -code != signal.SIGKILL:  # which has no other meaning to begin with
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def main() -> NoReturn:
    """Run the program of the command line to its end, or to the lifeline's."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    tether = os.getpid()
    program = os.fork()
    if program == 0:
        signal.set_wakeup_fd(-1)
        _become(sys.argv[1:], tether)

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(program, number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # so that it wakes the poll below
    waiting = select.poll()
    waiting.register(0, select.POLLIN | select.POLLHUP)
    waiting.register(woken, select.POLLIN)
    status = _reaped(program)
    while status is None:
        for descriptor, _ in waiting.poll():
            if descriptor == 0 and not os.read(0, 4096):
                _kill_all()
                os._exit(0)
            if descriptor == woken:
                os.read(woken, 4096)
        status = _reaped(program)
    _kill_all()
    _end_as(status)


if __name__ == "__main__":
    main()
