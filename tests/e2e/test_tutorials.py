"""Every command in the tutorials for one machine, as a reader would paste it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from lite_llm.testing.command import LITE_LLM, Command
from lite_llm.testing.guard import Guard, free_ports

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
SERVE = ("make up", "lite-llm up")


def commands(document: str) -> list[str]:
    text = (ROOT / "docs" / "tutorials" / document).read_text()
    return [line for block in BLOCK.findall(text) for line in block.splitlines() if line]


def ran(line: str, port: int) -> str:
    """What a command says that ends by itself; it must succeed."""
    environment = {
        **os.environ,
        "LITE_LLM_URL": f"http://127.0.0.1:{port}",
        "PATH": f"{LITE_LLM.parent}{os.pathsep}{os.environ['PATH']}",
    }
    told = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line.replace("127.0.0.1:8080", f"127.0.0.1:{port}")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, f"{line}\n{told.stdout}{told.stderr}"
    assert '"error"' not in told.stdout, f"{line}\n{told.stdout}"
    return told.stdout


@pytest.mark.parametrize(
    ("document", "least"), [("five-minutes.md", 5), ("tiers-and-tiersets.md", 5)]
)
def test_every_command_does_what_it_should(guard: Guard, document: str, least: int) -> None:
    (port,) = free_ports(1)
    up: Command | None = None
    said: dict[str, str] = {}
    listed = commands(document)
    assert len(listed) >= least
    for number, line in enumerate(listed):
        if line.startswith(SERVE):
            if up is not None:
                assert up.terminated() == 0
            arguments = shlex.split(line.removeprefix("make up").removeprefix("lite-llm up"))
            up = Command(guard, "up", "--port", str(port), *arguments, name=f"up-{number}")
            up.wait_said("OpenAI(")
        else:
            said[line] = ran(line, port)
            assert said[line].strip(), f"{line} said nothing"
    assert up is not None
    assert up.terminated() == 0
    answers = [out for line, out in said.items() if line.startswith("curl")]
    assert all('"text":"' in answer for answer in answers)
