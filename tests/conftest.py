"""What every test can ask for, and what a run says at its end about the servers it used."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from lite_llm.testing.control_plane import ControlPlane
from lite_llm.testing.guard import STARTED

# As the agent gives it to its workers: tests share the cores, and spinning threads would eat them.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# The same examples in every run, so that a failure belongs to a change; `make fuzz` tries others.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

VERSION_FLAGS = {"etcd": "--version", "kube-apiserver": "--version"}


def pytest_configure(config: pytest.Config) -> None:
    """Triton decides when it is imported, by whomever, whether its kernels are interpreted."""
    if config.getoption("-m") != "gpu":
        os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def control_plane() -> Iterator[ControlPlane]:
    """A fresh, isolated control plane; ``kubeconfig`` is its administrator's."""
    with ControlPlane() as plane:
        yield plane


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist tells the one that writes the summary what it started."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["started"] = dict(STARTED)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Count what a worker started, unless it died."""
    STARTED.update(getattr(node, "workeroutput", {}).get("started", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line that names what ran against what."""
    by_name: Counter[str] = Counter()
    for program, count in STARTED.items():
        by_name[described(program)] += count
    ran = ", ".join(f"{count} x {name}" for name, count in sorted(by_name.items())) or "none"
    terminalreporter.write_line(f"real servers and processes started: {ran}")


def described(program: str) -> str:
    """A program's name, with its version where it tells one."""
    name = Path(program).name
    if name not in VERSION_FLAGS:
        return name
    told = subprocess.run([program, VERSION_FLAGS[name]], capture_output=True, text=True)
    return f"{name} {told.stdout.split()[2 if name == 'etcd' else 1]}"
