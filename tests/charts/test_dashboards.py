"""The dashboards: what their code says, and every query answered by a real Prometheus that scraped
the real programs under load."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.operator.conftest import define

from lite_llm import agent, controllers, orchestrator
from lite_llm.metastore import MemoryStore
from lite_llm.telemetry import names
from lite_llm.telemetry.kinds import Histogram
from lite_llm.testing.control_plane import ControlPlane
from lite_llm.testing.guard import free_ports
from lite_llm.testing.prometheus import PrometheusServer, Target, prometheus_server

REPO = Path(__file__).resolve().parents[2]
CODE = REPO / "charts" / "dashboards"
FILES = sorted((REPO / "charts" / "lite-llm" / "dashboards").glob("*.json"))
METRIC = re.compile(r"\b(?:lite_llm_|vllm:)\w+")
MODEL = "demo"


def queries(path: Path) -> Iterator[tuple[str, str]]:
    """Each panel's title and one of its queries, as Grafana would send it at first."""
    board = json.loads(path.read_text())
    variables = {each["name"]: each for each in board["templating"]["list"]}
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"].replace("$__rate_interval", "20s")
            for name, variable in variables.items():
                first = variable["query"] if variable["type"] == "textbox" else ".*"
                expr = expr.replace(f"${name}", first)
            yield panel["title"], expr


def test_files_are_what_their_code_says() -> None:
    command = [sys.executable, str(CODE / "write_boards.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_board_is_whole(path: Path) -> None:
    board = json.loads(path.read_text())
    assert board["uid"] == f"lite-llm-{path.stem}"
    assert board["title"].startswith("Lite LLM / ")
    assert "datasource" in [each["name"] for each in board["templating"]["list"]]
    known = {metric.name for metric in names.METRICS} | {
        f"{metric.name}_{part}"
        for metric in names.METRICS
        if isinstance(metric, Histogram)
        for part in ("bucket", "sum", "count")
    }
    for title, expr in queries(path):
        assert "$" not in expr, title
        assert set(METRIC.findall(expr)) <= known, title
    for panel in board["panels"]:
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}"


def declared(plane: ControlPlane) -> None:
    """As a person does it, with kubectl."""
    plane.request(
        "POST",
        "/apis/lite-llm.dev/v1alpha1/namespaces/default/litellmmodels",
        {
            "apiVersion": "lite-llm.dev/v1alpha1",
            "kind": "LiteLLMModel",
            "metadata": {"name": MODEL, "namespace": "default"},
            "spec": {"source": {"uri": f"file://{REPO / 'models' / 'demo'}"}},
        },
    )


async def ask(url: str) -> None:
    """A few requests at once, streamed and whole, under different TierSets, and one that fails."""
    async with aiohttp.ClientSession(url) as http:

        async def complete(number: int) -> None:
            body: dict[str, Any] = {
                "model": MODEL,
                "prompt": f"def function_{number % 3}(self, value):\n",
                "max_tokens": 24,
                "stream": bool(number % 2),
                "lite_llm": {"tier_set": ("fast", "balanced", "max")[number % 3]},
            }
            async with http.post("/v1/completions", json=body) as answer:
                await answer.read()
                assert answer.status == 200

        await complete(0)
        for _ in range(4):
            await asyncio.gather(*(complete(number) for number in range(6)))
        bad = {"model": MODEL, "prompt": "x", "max_tokens": -1}
        async with http.post("/v1/completions", json=bad) as answer:
            assert answer.status == 400


async def test_every_query_has_an_answer(control_plane: ControlPlane, tmp_path: Path) -> None:
    store = MemoryStore()
    door_port, agent_port, operator_port = free_ports(3)
    targets = [
        Target(job="lite-llm-orchestrator", address=f"127.0.0.1:{door_port}"),
        Target(job="lite-llm-agent", address=f"127.0.0.1:{agent_port}", labels={"node": "node-a"}),
        Target(job="lite-llm-operator", address=f"127.0.0.1:{operator_port}"),
    ]
    agent_settings = agent.AgentSettings(
        state_directory=tmp_path / "agent",
        node="node-a",
        listen_http=f"127.0.0.1:{agent_port}",
        expert_hot_bytes=2 << 20,
        expert_warm_bytes=4 << 20,
    )
    door_settings = orchestrator.OrchestratorSettings(
        listen_http=f"127.0.0.1:{door_port}", grace_seconds=0.5
    )
    operator_settings = controllers.OperatorSettings(
        kubeconfig=str(control_plane.kubeconfig), listen_http=f"127.0.0.1:{operator_port}"
    )
    await asyncio.to_thread(define, control_plane)
    async with (
        controllers.running(operator_settings, store),
        agent.running(agent_settings, store),
        orchestrator.running(door_settings, store) as door,
    ):
        await asyncio.to_thread(declared, control_plane)
        with prometheus_server(targets) as prometheus:
            url = f"http://{door.http_address}"
            await asyncio.sleep(3)  # what is counted from 0 must have been seen at 0
            await ask(url)
            await asyncio.sleep(3)
            await ask(url)
            await asyncio.sleep(2)
            silent = await asyncio.to_thread(unanswered, prometheus)
            folder = Path(os.environ.get("LITE_LLM_PICTURES", tmp_path))
            pictures = await asyncio.to_thread(draw, prometheus, folder)
    store.close()
    assert silent == [], "\n".join(map(str, silent))
    assert {path.stem for path in FILES} <= pictures


def unanswered(prometheus: PrometheusServer) -> list[tuple[str, str, str]]:
    """Boards, panels and queries that Prometheus has no sample for."""
    return [
        (path.stem, title, expr)
        for path in FILES
        for title, expr in queries(path)
        if not prometheus.query(expr)
    ]


def draw(prometheus: PrometheusServer, folder: Path) -> set[str]:
    """As for the documents; names of the pictures."""
    command = [sys.executable, str(CODE / "pictures.py"), prometheus.url, str(folder), "45"]
    subprocess.run(command, check=True, timeout=120)
    return {path.stem for path in folder.glob("*.png")}
