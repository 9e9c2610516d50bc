"""The guard removes what it owns, whichever way its owner ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lite_llm.testing.guard import Guard, MissingServer, find_program, free_ports, marked_processes

GRANDCHILD = """
import subprocess, time
subprocess.Popen(["sleep", "600"], start_new_session=True)
time.sleep(600)
"""

OWNER = """
import sys, time
from lite_llm.testing.guard import Guard
with Guard() as guard:
    guard.spawn([sys.executable, "-c", sys.argv[1]], log="child.log")
    print(guard.mark, guard.directory, flush=True)
    time.sleep(600)
"""


def wait_until(condition: object, seconds: float = 20.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.02)


def test_everything_is_gone_after_the_block() -> None:
    with Guard() as guard:
        directory = guard.directory
        guard.spawn([sys.executable, "-c", GRANDCHILD], log="child.log")
        wait_until(lambda: len(list(marked_processes(guard.mark))) == 2)
    assert not directory.exists()
    assert list(marked_processes(guard.mark)) == []


def test_everything_is_gone_after_the_owner_was_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, GRANDCHILD], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        mark, directory = owner.stdout.readline().split()
        wait_until(lambda: len(list(marked_processes(mark))) == 2)
        os.kill(owner.pid, signal.SIGKILL)
    wait_until(lambda: not Path(directory).exists())
    assert list(marked_processes(mark)) == []


def test_output_is_kept_for_error_messages() -> None:
    with Guard() as guard:
        guard.spawn(["sh", "-c", "echo out; echo err >&2"], log="x.log").wait()
        assert guard.log_tail("x.log") == "out\nerr\n"
        assert guard.log_tail("absent.log") == ""


def test_a_missing_program_names_the_remedy() -> None:
    with pytest.raises(MissingServer, match="no-such-server is not on PATH: apt install it"):
        find_program("no-such-server", remedy="apt install it")


def test_no_port_is_given_twice() -> None:
    program = "from lite_llm.testing.guard import free_ports; print(*free_ports(200)); input()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = {int(port) for port in other.stdout.readline().split()}
        ours = free_ports(200) + free_ports(200)
        other.communicate("\n")
    assert len(set(ours) | theirs) == 600
