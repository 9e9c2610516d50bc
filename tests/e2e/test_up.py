"""``lite-llm up`` from a checkpoint to OpenAI's client, and back to nothing."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import openai

from lite_llm.checkpoint import convert
from lite_llm.cli.bundled import PROMPT, bundled_model
from lite_llm.contracts import outcomes
from lite_llm.testing.command import Command
from lite_llm.testing.guard import Guard, free_ports, marked_processes
from lite_llm.training import Evaluator

PROMPTS = ("the quick brown fox", "a model costs nothing", "x")


def assert_left_nothing(up: Command, guard: Guard, port: int) -> None:
    """No process, no file, no socket, no traceback."""
    assert "Traceback" not in up.output
    assert list(marked_processes(guard.mark)) == []
    assert list(up.scratch.rglob("*")) == []
    with socket.socket() as prober:
        assert prober.connect_ex(("127.0.0.1", port)) != 0


def ask_as_printed(output: str) -> tuple[str, str]:
    """The answers to the printed curl line and to the printed snippet."""
    _, _, advice = output.partition("until Ctrl-C\n")
    curl, _, snippet = advice.strip().partition("\n")
    program, url, _, header, _, body = shlex.split(curl)
    assert program == "curl"
    headers = dict([header.split(": ")])
    request = urllib.request.Request(url, body.encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        text = json.load(response)["choices"][0]["text"]
    lines = "\n".join(line.strip() for line in snippet.splitlines())
    ran = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return text, ran.stdout


def test_a_directory_becomes_an_api_and_leaves_nothing(
    guard: Guard, checkpoint: Path, expected: Callable[[str, int], tuple[str, list[int]]]
) -> None:
    (port,) = free_ports(1)
    up = Command(guard, "up", "--model", str(checkpoint), "--port", str(port))
    up.wait_said("OpenAI(")
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0
    ) as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        for prompt in PROMPTS:
            stream = client.completions.create(
                model="tiny", prompt=prompt, max_tokens=32, temperature=0, stream=True
            )
            text = "".join(choice.text for chunk in stream for choice in chunk.choices)
            assert text == expected(prompt, 32)[0]
    assert all(ask_as_printed(up.output))
    assert list(up.scratch.iterdir()), "the state of a running agent lies here"
    assert up.terminated() == 0
    assert_left_nothing(up, guard, port)


def test_it_can_be_stopped_while_a_model_loads(guard: Guard, checkpoint: Path) -> None:
    (port,) = free_ports(1)
    up = Command(guard, "up", "--model", f"mine={checkpoint}", "--port", str(port))
    up.wait_said("mine: ")
    assert up.terminated() == 0
    assert "until Ctrl-C" not in up.output
    assert_left_nothing(up, guard, port)


def test_a_converted_checkpoint_answers_the_same(
    guard: Guard,
    checkpoint: Path,
    tmp_path: Path,
    expected: Callable[[str, int], tuple[str, list[int]]],
) -> None:
    for _ in convert(checkpoint, tmp_path / "converted"):
        pass
    (port,) = free_ports(1)
    up = Command(guard, "up", "--model", f"tiny={tmp_path / 'converted'}", "--port", str(port))
    up.wait_said("OpenAI(")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
        answer = client.completions.create(
            model="tiny", prompt=PROMPTS[0], max_tokens=32, temperature=0
        )
    assert answer.choices[0].text == expected(PROMPTS[0], 32)[0]
    assert up.terminated() == 0
    assert_left_nothing(up, guard, port)


def test_without_a_model_it_serves_the_demo_until_ctrl_c(guard: Guard) -> None:
    (port,) = free_ports(1)
    up = Command(guard, "up", "--port", str(port))
    up.wait_said("OpenAI(")
    assert "demo: ready after" in up.output
    assert all(ask_as_printed(up.output))
    assert f"http://127.0.0.1:{port}/console" in up.output
    for path in ("/console", "/readyz"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as response:
            assert response.status == 200
    up.process.send_signal(signal.SIGINT)
    assert up.wait_ended() == 0
    assert_left_nothing(up, guard, port)


def test_a_small_fleet_with_little_memory_answers_the_same_in_another_dtype(
    guard: Guard, checkpoint: Path
) -> None:
    (port,) = free_ports(1)
    demo = bundled_model()
    budgets = ("--hot-bytes", "6MiB", "--warm-bytes", "2MiB")
    both = ("--model", f"demo={demo}", "--model", str(checkpoint), "--dtype", "float32")
    up = Command(guard, "up", "--port", str(port), "--agents", "3", *budgets, *both)
    up.wait_said("OpenAI(")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
        assert sorted(model.id for model in client.models.list()) == ["demo", "tiny"]
        answer = client.completions.create(
            model="demo", prompt=PROMPT, max_tokens=24, temperature=0
        )
    fleet = urllib.request.urlopen(f"http://127.0.0.1:{port}/lite-llm/v1/fleet", timeout=60)
    with fleet as response:
        assert len(json.load(response)["agents"]) == 3
    text = Evaluator(demo).complete(PROMPT, max_tokens=24)
    assert PROMPT + answer.choices[0].text == text
    assert up.terminated() == 0
    assert_left_nothing(up, guard, port)


def test_a_port_that_is_taken_is_said_in_one_line(guard: Guard) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = Command(guard, "up", "--port", str(port))
        assert up.wait_ended() == outcomes.CONFIG
    assert up.output.splitlines() == [
        f"lite-llm: can't listen on 127.0.0.1:{port}: Address already in use: "
        "choose a free port and an address of this machine"
    ]
    assert_left_nothing(up, guard, port)


def test_a_model_that_can_t_be_run_is_said_in_one_line(
    guard: Guard, checkpoint: Path, tmp_path: Path
) -> None:
    strange = shutil.copytree(checkpoint, tmp_path / "strange")
    config = json.loads((strange / "config.json").read_text())
    config |= {"architectures": ["MambaForCausalLM"], "model_type": "mamba"}
    (strange / "config.json").write_text(json.dumps(config))
    (port,) = free_ports(1)
    up = Command(guard, "up", "--model", str(strange), "--port", str(port))
    assert up.wait_ended() == outcomes.DATA
    (line,) = [line for line in up.output.splitlines() if line.startswith("lite-llm: ")]
    assert "mamba" in line.lower()
    assert_left_nothing(up, guard, port)
