"""Every command of the README and the tutorials, as a reader would paste it.

Hub, bucket and API server are those of :mod:`lite_llm.testing`; where the operator is wanted, the
test says in its place that a model is ready. ``ELSEWHERE`` names what is not executed here.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import yaml
from moto.server import ThreadedMotoServer

from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.testing.command import LITE_LLM, Command
from lite_llm.testing.control_plane import ApiError, ControlPlane
from lite_llm.testing.guard import Guard, free_ports
from lite_llm.testing.hub import serving_hub

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
SERVE = re.compile(r"^(make|lite-llm) up\b", re.MULTILINE)
ELSEWHERE = {
    "make test": "what continuous integration runs, and everybody who runs this",
    "make demo": "test_story.py runs it",
    "kubectl -n lite-llm port-forward service/lite-llm-orchestrator 8080:80 &": (
        "needs a kubelet that forwards ports; test_kubernetes.py asks orchestrators in Pods"
    ),
}
"""Commands that are only parsed here, and why."""
DRY = f"make --dry-run --silent --no-print-directory -C {shlex.quote(str(ROOT))}"
SECONDS = 240.0


def blocks(document: Path) -> list[list[str]]:
    return [block.splitlines() for block in BLOCK.findall(document.read_text())]


def bare(line: str) -> str:
    """Without its comment."""
    return re.sub(r"\s+# .*", "", line).strip()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that looks like the clone, with a model at ``path/to/model``; we sit at it."""
    desk = tmp_path / "desk"
    desk.mkdir()
    for name in ("models", "docs"):
        (desk / name).symlink_to(ROOT / name)
    tiny_llama(desk / "path" / "to" / "model", seed=3)
    monkeypatch.chdir(desk)
    monkeypatch.setenv("PATH", f"{LITE_LLM.parent}{os.pathsep}{os.environ['PATH']}")
    return desk


@pytest.fixture
def bucket(desk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``s3://my-bucket/models/qwen``, for whoever looks into the environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    files = sorted((desk / "path" / "to" / "model").iterdir())
    whole = {f"{url}/my-bucket/models/qwen/{path.name}": path.read_bytes() for path in files}
    for address, content in {f"{url}/my-bucket": b"", **whole}.items():
        plain = {"Content-Type": "application/octet-stream"}  # by default it would be a form
        request = Request(address, data=content, headers=plain, method="PUT")
        with urlopen(request, timeout=SECONDS):
            pass
    yield
    server.stop()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlPlane]:
    """An API server that knows our kinds, for kubectl without further words."""
    with ControlPlane() as plane:
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            body = yaml.safe_load(path.read_text())
            plane.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
        space = plane.make_namespace("lite-llm")
        secret = {"metadata": {"name": "lite-llm-admin-key"}, "stringData": {"key": "secret"}}
        plane.request("POST", f"/api/v1/namespaces/{space}/secrets", secret)
        monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
        yield plane


class Reader:
    """Pastes commands; what serves runs until the next that does."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._up: Command | None = None
        self._port = 0
        self._number = 0

    async def read(self, document: Path) -> str:
        """Everything that was said; each command must succeed."""
        if not SERVE.search("\n".join(line for block in blocks(document) for line in block)):
            await self.serve()  # "in another terminal"
        said = ""
        for block in blocks(document):
            script: list[str] = []
            for line in block:
                if SERVE.match(line):
                    said += await self._paste(script)
                    script = []
                    await self.serve(bare(line))
                elif bare(line) in ELSEWHERE:
                    await asyncio.to_thread(parsed, bare(line))
                else:
                    script.append(line)
            said += await self._paste(script)
        return said

    async def serve(self, line: str = "lite-llm up") -> None:
        """Replaces what served before."""
        await self.close()
        if line.startswith("make"):
            told = await asyncio.to_thread(output, f"{DRY} {line[5:]}")
            (line,) = (one for one in told.splitlines() if one.startswith("lite-llm up"))
        (self._port,) = free_ports(1)
        self._number += 1
        arguments = shlex.split(line)[2:]
        self._up = Command(
            self._guard, "up", "--port", str(self._port), *arguments, name=f"up-{self._number}"
        )
        await asyncio.to_thread(self._up.wait_said, "OpenAI(")

    async def close(self) -> None:
        """It leaves as it should."""
        if self._up is not None:
            assert await asyncio.to_thread(self._up.terminated) == 0

    async def _paste(self, script: list[str]) -> str:
        if not any(script):
            return ""
        pasted = "\n".join(script)
        said = await asyncio.to_thread(output, pasted, self._port)
        assert said.strip(), f"{pasted}\nsaid nothing"
        assert '"error"' not in said, f"{pasted}\n{said}"
        return said


def output(script: str, port: int = 0) -> str:
    """What is said by commands that end by themselves; they must succeed."""
    told = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace("127.0.0.1:8080", f"127.0.0.1:{port}")],
        env={**os.environ, "LITE_LLM_URL": f"http://127.0.0.1:{port}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert told.returncode == 0, f"{script}\n{told.stdout}{told.stderr}"
    return told.stdout


def parsed(line: str) -> None:
    """Its program understands it, but does nothing."""
    if line.startswith("make"):
        output(f"{DRY} {line[5:]}")
    else:
        output(f"{line.removesuffix('&')} --help")


def test_what_runs_elsewhere_is_still_written() -> None:
    written = {bare(line) for one in DOCUMENTS for block in blocks(one) for line in block}
    assert set(ELSEWHERE) <= written


def test_no_document_is_forgotten() -> None:
    tested = {"a-cluster", "your-own-model", *ON_ONE_MACHINE}
    assert {document.stem for document in DOCUMENTS} == tested


ON_ONE_MACHINE = {
    "README": 0,
    "determinism-and-failover": 1,
    "five-minutes": 2,
    "tiers-and-tiersets": 3,
}
"""Documents that need nothing else, and how many answers they show as JSON."""


@pytest.mark.timeout(900)  # programs that start again and again, on a machine that may be busy
@pytest.mark.parametrize("name", ON_ONE_MACHINE)
async def test_on_one_machine(guard: Guard, desk: Path, name: str) -> None:
    (document,) = (one for one in DOCUMENTS if one.stem == name)
    reader = Reader(guard)
    said = await reader.read(document)
    await reader.close()
    assert said.count('"text":"') == ON_ONE_MACHINE[name]


@pytest.mark.timeout(900)
async def test_your_own_model(
    guard: Guard, desk: Path, bucket: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving_hub(desk / "path" / "to" / "model", "Qwen/Qwen3-0.6B") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        reader = Reader(guard)
        said = await reader.read(ROOT / "docs" / "tutorials" / "your-own-model.md")
        await reader.close()
        assert hub.gets["config.json"]
    assert "LlamaForCausalLM" in said


@pytest.mark.timeout(900)
async def test_a_cluster(guard: Guard, desk: Path, cluster: ControlPlane) -> None:
    reader = Reader(guard)
    ready = asyncio.create_task(said_ready(cluster))
    said = await reader.read(ROOT / "docs" / "tutorials" / "a-cluster.md")
    await ready
    await reader.close()
    for words in ("sometimes created", "condition met", "sometimes scaled", "demo"):
        assert words in said
    assert cluster.request("GET", MODEL)["spec"]["scaling"]["minReplicas"] == 2


MODEL = "/apis/lite-llm.dev/v1alpha1/namespaces/default/litellmmodels/sometimes"


async def said_ready(cluster: ControlPlane) -> None:
    """What an operator does, once the model is there."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {"type": "Ready", "status": "True", "reason": "Cold", "message": "at zero"}
    status = {"conditions": [{**ready, "lastTransitionTime": now}]}
    while True:
        try:
            await asyncio.to_thread(cluster.request, "PATCH", f"{MODEL}/status", {"status": status})
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            await asyncio.sleep(0.2)
        else:
            return
