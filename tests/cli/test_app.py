"""The command as a person starts it, in processes of its own."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

from lite_llm.cli.__main__ import main
from lite_llm.contracts import outcomes
from lite_llm.contracts.errors import OutOfMemory

HEAVY = ("torch", "kopf", "aiohttp", "grpc", "msgspec", "transformers", "numpy", "kubernetes")


def lite_llm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lite_llm.cli", *arguments],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_help_imports_no_program() -> None:
    program = (
        "import sys; from lite_llm.cli.__main__ import main\n"
        "sys.argv = ['lite-llm', 'up', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"print('loaded:', sorted(set({HEAVY}) & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert result.stderr == ""
    assert "--model" in result.stdout
    assert result.stdout.endswith("loaded: []\n")


@pytest.mark.parametrize(
    "command",
    ["up", "orchestrator", "agent", "operator", "convert", "inspect", "verify", "version"],
)
def test_help_names_every_command(command: str) -> None:
    assert command in lite_llm("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["up", "--model", "/no/such/directory"], outcomes.NO_INPUT, "is not a directory"),
        (["up", "--model", "name=/"], outcomes.NO_INPUT, "has neither config.json"),
        (["up", "--etcd", "ftp://x:1"], outcomes.CONFIG, "http://host:2379"),
        (["up", "--etcd", "http://[::1"], outcomes.CONFIG, "http://host:2379"),
        (["agent", "--etcd", ""], outcomes.CONFIG, "needs its etcd"),
        (["orchestrator", "--etcd", ""], outcomes.CONFIG, "needs its etcd"),
        (["operator", "--etcd", ""], outcomes.CONFIG, "needs its etcd"),
        (["convert", "/no/such", "/tmp/x"], outcomes.NO_INPUT, "/no/such"),
        (["inspect", "/no/such"], outcomes.NO_INPUT, "/no/such"),
        (["verify", "/no/such"], outcomes.NO_INPUT, "/no/such"),
        (["orchestrator", "--etcd", "x:1", "--listen", "x"], outcomes.CONFIG, "host:port"),
        (["orchestrator", "--etcd", "x:1", "--registry-store", "s3://b"], outcomes.CONFIG, "both"),
        (
            ["orchestrator", "--etcd", "x:1", "--registry-store", "/b", "--registry-scratch", "/x"],
            outcomes.CONFIG,
            "can't be written to",
        ),
        (["agent", "--etcd", "x:1", "--tls-ca", "a"], outcomes.CONFIG, "--tls-ca"),
        (["agent", "--etcd", "x:1", "--node", "Bad Name"], outcomes.CONFIG, "Bad Name"),
    ],
)
def test_a_mistake_is_said_in_one_line(
    arguments: list[str],
    status: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["lite-llm", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lite-llm: ")
    assert words in line


def test_errors_of_parts_are_found_in_their_groups(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        inner = ExceptionGroup("tasks", [ValueError("x"), OutOfMemory("no room", remedy="buy")])
        raise ExceptionGroup("house", [inner])

    monkeypatch.setattr("lite_llm.cli.__main__.app", fail)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == outcomes.TEMPORARY
    assert capsys.readouterr().err == "lite-llm: no room: buy\n"


def test_faults_of_ours_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("lite_llm.cli.__main__.app", fail)
    with pytest.raises(ZeroDivisionError):
        main()


def test_version() -> None:
    result = lite_llm("version")
    assert result.stdout == f"lite-llm {metadata.version('lite-llm')}\n"
    assert result.returncode == 0
