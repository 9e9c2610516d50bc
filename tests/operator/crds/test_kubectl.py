"""Our kinds as a person meets them: kubectl against a real API server, strictly."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.operator.conftest import REPO, Api, resource

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import AgentKey, ResidencyKey, key_of
from lite_llm.controllers import OperatorSettings, running
from lite_llm.metastore import MemoryStore
from lite_llm.proto.v1 import agent_pb2, model_pb2
from lite_llm.testing.control_plane import ApiError, ControlPlane
from lite_llm.testing.custom_resources import RULES
from lite_llm.testing.guard import find_program
from lite_llm.wire import dumps

EXAMPLES = sorted((REPO / "docs" / "examples").glob("*.yaml"))


@pytest.fixture(scope="module")
def kubectl_program() -> str:
    return find_program("kubectl", remedy="run make setup, or install kubernetes-client")


class Kubectl:
    """kubectl as the plane's administrator, with a home of its own."""

    def __init__(self, program: str, plane: ControlPlane, home: Path) -> None:
        self._command = [program, f"--kubeconfig={plane.kubeconfig}", f"--cache-dir={home}"]

    def __call__(self, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [*self._command, *arguments], input=stdin, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def kubectl(kubectl_program: str, plane: ControlPlane, tmp_path: Path) -> Kubectl:
    return Kubectl(kubectl_program, plane, tmp_path)


def without_rules(schema: Any) -> Any:
    """As a server that knows no CEL stores it."""
    if isinstance(schema, dict):
        return {key: without_rules(value) for key, value in schema.items() if key != RULES}
    return [without_rules(each) for each in schema] if isinstance(schema, list) else schema


def test_definitions_are_applied_strictly(api: Api, kubectl: Kubectl) -> None:
    """This server does not know CEL, and strictness takes what it does not know for a mistake."""
    for path in sorted((REPO / "crds").glob("*.yaml")):
        old = yaml.safe_dump(without_rules(yaml.safe_load(path.read_text())))
        assert "configured" in kubectl("apply", "--validate=true", "-f", "-", stdin=old)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_applied_strictly(api: Api, kubectl: Kubectl, path: Path) -> None:
    assert "created" in kubectl("apply", "--validate=true", "-f", str(path))
    assert "unchanged" in kubectl("apply", "--validate=true", "-f", str(path))


def test_what_can_not_be_meant_is_refused(api: Api, plane: ControlPlane) -> None:
    wrong: list[dict[str, Any]] = [
        {"source": {"uri": "ftp://x"}},
        {"backend": "abacus"},
        {"source": {}},
        {"scaling": {"minReplicas": -1}},
        {"aliases": ["a", "a"]},
    ]
    for spec in wrong:
        body = resource("wrong", **spec)
        with pytest.raises(ApiError) as refusal:
            plane.request(
                "POST", "/apis/lite-llm.dev/v1alpha1/namespaces/default/litellmmodels", body
            )
        assert refusal.value.status == 422


def test_explain_tells_what_fields_mean(kubectl: Kubectl) -> None:
    assert "put to sleep" in kubectl("explain", "llmodel.spec.scaling.idleSeconds")
    assert "GPU memory" in kubectl("explain", "tset.spec.tiers.placement")


async def test_a_model_as_kubectl_shows_and_scales_it(
    api: Api, kubectl: Kubectl, kubeconfig: str, store: MemoryStore
) -> None:
    agent = agent_pb2.AgentStatus(node="n1", health=agent_pb2.Health(healthy=True))
    held = agent_pb2.Residency(
        node="n1", state=model_pb2.MODEL_STATE_ACTIVE, nearest=model_pb2.MEDIUM_GPU
    )
    await store.put(key_of(AgentKey("n1")), dumps(agent))
    await store.put(key_of(ResidencyKey(ModelRef("default", "chat"), "n1")), dumps(held))
    await api.make(resource("chat", scaling={"maxReplicas": 3}))

    async def say(*arguments: str) -> str:
        return await asyncio.to_thread(kubectl, *arguments)

    settings = OperatorSettings(kubeconfig=kubeconfig, pace_seconds=0.05, release_seconds=0.0)
    async with running(settings, store):
        await say("wait", "--for=condition=Ready", "--timeout=60s", "llmodel/chat")
        header, row = (await say("get", "llmodel")).splitlines()
        assert header.split() == ["NAME", "READY", "STATE", "TIER", "REPLICAS", "MODEL", "AGE"]
        assert row.split()[:6] == ["chat", "True", "Active", "GPU", "1", "hf://owner/tiny"]
        assert "Serving" in await say("get", "llmodel", "-o", "wide")
        assert "chat" in await say("get", "lite-llm")
        assert "Accepted" in await say("describe", "llmodel", "chat")

        await say("scale", "llmodel/chat", "--replicas=2")
        assert (await api.get("chat"))["spec"]["scaling"]["minReplicas"] == 2
        await say("wait", "--for=condition=Degraded", "--timeout=60s", "llmodel/chat")
        scale = await api.request(
            "GET",
            "/apis/lite-llm.dev/v1alpha1/namespaces/default/litellmmodels/chat/scale",
        )
        assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (2, 1)
        assert "component=agent" in scale["status"]["selector"]
        await say("delete", "llmodel/chat", "--timeout=60s")
