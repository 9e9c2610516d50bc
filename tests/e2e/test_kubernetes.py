"""The chart on a real control plane: installed, asked, bereft of a Node, asleep, uninstalled."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import helm_python as helm
import openai
import pytest
import yaml

from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.testing.control_plane import ControlPlane
from lite_llm.testing.guard import find_program
from lite_llm.testing.kubelet import ProcessKubelet

REPO = Path(__file__).resolve().parents[2]
CHART = REPO / "charts" / "lite-llm"
SPACE, RELEASE = "serving", "lite-llm"
SECONDS = 120.0
KERNELS = REPO / "agent" / "lite_llm" / "kernels" / "__pycache__"
COMPILED = "/var/lib/lite-llm/cache/compiled"
"""Where agents look for compiled kernels, and where all other tests have them."""
TOKENS = 300
PASSING = {"events", "componentstatuses", "apiservices"}
"""Resources that Kubernetes makes and forgets by itself."""
MODEL = {
    "apiVersion": "lite-llm.dev/v1alpha1",
    "kind": "LiteLLMModel",
    "metadata": {"name": "tiny", "namespace": SPACE},
    "spec": {"source": {"uri": "file:///models/tiny"}, "scaling": {"minReplicas": 0}},
}


def entrypoints() -> dict[str, list[str]]:
    """What each image runs, by its own Dockerfile."""
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    return {
        f"ghcr.io/lite-llm/{program}:{version}": json.loads(
            re.findall(r"^ENTRYPOINT (.+)$", (REPO / program / "Dockerfile").read_text(), re.M)[0]
        )
        for program in ("operator", "orchestrator", "agent")
    }


def values(models: Path) -> dict[str, Any]:
    """Three Nodes without GPUs and disks, on which Pods listen on their own addresses."""
    return {
        "listenHost": "$(POD_IP)",
        "orchestrator": {"autoscaling": {"enabled": False}},
        "agents": {
            "accelerator": "none",
            "memory": "8GiB",
            "prefork": False,  # three processes that import torch at once, where one is needed
            "extraVolumes": [
                {"name": "models", "hostPath": {"path": str(models)}},
                {"name": "kernels", "hostPath": {"path": str(KERNELS)}},
            ],
            "extraVolumeMounts": [
                {"name": "models", "mountPath": "/models", "readOnly": True},
                {"name": "kernels", "mountPath": f"{COMPILED}/numba/lite-llm-kernels"},
            ],
        },
        "etcd": {
            "persistence": {"enabled": False},
            # All processes of this machine come from one address, whichever they listen on.
            "extraEnv": [
                {"name": "ETCD_EXPERIMENTAL_PEER_SKIP_CLIENT_SAN_VERIFICATION", "value": "true"}
            ],
        },
    }


class Cluster:
    """Short words for what these tests do with the control plane, the Nodes and the chart."""

    def __init__(self, plane: ControlPlane, kubelet: ProcessKubelet, models: Path) -> None:
        self.plane = plane
        self.kubelet = kubelet
        self.values = values(models)
        self._kubectl = find_program("kubectl", remedy="install Kubernetes' client")

    async def helm(self, action: Callable[[helm.Config], Any]) -> Any:
        """Something done by Helm's engine, as administrator."""

        def act() -> Any:
            with helm.Config(kubeconfig_path=self.plane.kubeconfig, namespace=SPACE) as config:
                return action(config)

        return await asyncio.to_thread(act)

    async def kubectl(self, *words: str, given: object = None) -> str:
        """What kubectl prints."""
        command = [self._kubectl, f"--kubeconfig={self.plane.kubeconfig}", f"-n={SPACE}", *words]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        told, wrong = await process.communicate(json.dumps(given).encode())
        assert process.returncode == 0, wrong.decode()
        return told.decode()

    def pods(self, component: str = "") -> list[Any]:
        """Pods of the release."""
        items: list[Any] = self.plane.request("GET", f"/api/v1/namespaces/{SPACE}/pods")["items"]
        label = "app.kubernetes.io/component"
        return [
            one for one in items if not component or one["metadata"]["labels"][label] == component
        ]

    def model(self) -> Any:
        """The model's status."""
        path = f"/apis/lite-llm.dev/v1alpha1/namespaces/{SPACE}/litellmmodels/tiny"
        return self.plane.request("GET", path).get("status") or {}

    async def eventually(self, what: str, condition: Callable[[], Any]) -> Any:
        """Wait for a condition; what it returned."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SECONDS
        while not (found := await asyncio.to_thread(condition)):
            assert loop.time() < deadline, f"waited for {what}:\n{self.story()}"
            await asyncio.sleep(0.2)
        return found

    def story(self) -> str:
        """What every Pod is at and said last."""
        return "\n".join(
            f"{one['metadata']['name']} on {one['spec'].get('nodeName')}: "
            f"{one['status'].get('containerStatuses')}\n"
            + self.kubelet.log(SPACE, one["metadata"]["name"])[-1500:]
            for one in self.pods()
        )

    async def all_ready(self, number: int) -> None:
        """Wait until so many Pods are there and all of them ready."""
        await self.eventually(
            f"{number} Pods", lambda: len(pods := self.pods()) == number and all(map(ready, pods))
        )

    def objects(self) -> set[tuple[str, str, str]]:
        """All that can be listed, but what Kubernetes itself makes and forgets."""
        found = set()
        for group in self._groups():
            for kind in self.plane.request("GET", group)["resources"]:
                if "list" not in kind["verbs"] or kind["name"] in PASSING:
                    continue
                for one in self.plane.request("GET", f"{group}/{kind['name']}")["items"]:
                    meta = one["metadata"]
                    found.add((kind["kind"], meta.get("namespace", ""), meta["name"]))
        return found

    def _groups(self) -> list[str]:
        groups = self.plane.request("GET", "/apis")["groups"]
        return ["/api/v1", *(f"/apis/{one['preferredVersion']['groupVersion']}" for one in groups)]


def ready(pod: Any) -> bool:
    """Whether a Pod is Ready and not about to go."""
    conditions = pod["status"].get("conditions") or ()
    is_ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return is_ready and "deletionTimestamp" not in pod["metadata"]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    tiny_llama(tmp_path / "tiny", seed=7)
    with ControlPlane(node_monitor_grace_seconds=6) as plane:
        plane.make_namespace(SPACE)
        async with ProcessKubelet(
            plane, 3, heartbeat_seconds=1.0, entrypoints=entrypoints()
        ) as kubelet:
            yield Cluster(plane, kubelet, tmp_path)


class Door:
    """An orchestrator's Pod, asked by OpenAI's client with the administrator's key."""

    def __init__(self, cluster: Cluster, pod: Any) -> None:
        path = f"/api/v1/namespaces/{SPACE}/secrets/{RELEASE}-admin-key"
        key = base64.b64decode(cluster.plane.request("GET", path)["data"]["key"]).decode()
        self.node = pod["spec"]["nodeName"]
        self._client = openai.AsyncOpenAI(
            base_url=f"http://{pod['status']['podIP']}:8080/v1", api_key=key, max_retries=0
        )

    async def ask(
        self, amid: Callable[[str], Awaitable[None]] | None = None
    ) -> tuple[str, list[Any]]:
        """The node that answers first and all that is streamed; ``amid`` the stream, it is told."""
        async with self._client as client:
            raw = await client.completions.with_raw_response.create(
                model=f"{SPACE}/tiny",
                prompt="the quick brown fox",
                max_tokens=TOKENS,
                seed=11,
                logprobs=1,
                stream=True,
                timeout=SECONDS,
                extra_body={"ignore_eos": True, "return_token_ids": True},
            )
            # A request that is held is answered before it is known by whom.
            node, chunks = raw.headers.get("X-Lite-Llm-Agent", ""), []
            async for chunk in raw.parse():
                chunks.append(chunk.model_dump(exclude={"id", "created"}))
                if amid and len(chunks) == 20:
                    await amid(node)
        return node, chunks


def tokens(chunks: list[Any]) -> list[int]:
    """All tokens of a stream."""
    return [token for one in chunks for choice in one["choices"] for token in choice["token_ids"]]


@pytest.mark.e2e  # minutes: make e2e
@pytest.mark.timeout(900)  # ten programs on a machine that may be busy
async def test_from_install_to_uninstall(cluster: Cluster) -> None:
    before = cluster.objects()
    await cluster.helm(lambda config: config.install(CHART, RELEASE, cluster.values))
    await cluster.all_ready(2 + 2 + 3 + 3)
    doors = [Door(cluster, pod) for pod in cluster.pods("orchestrator")]
    assert len({door.node for door in doors}) == 2, "they keep apart"

    await cluster.kubectl("apply", "-f", "-", given=MODEL)
    await cluster.kubectl("wait", "--for=condition=Accepted", "llmodel/tiny", "--timeout=60s")
    _, undisturbed = await doors[0].ask()
    assert len(tokens(undisturbed)) == TOKENS
    node, _ = await doors[1].ask()

    (door, *_) = (door for door in fresh(cluster) if door.node != node)
    struck: list[str] = []

    async def strike(node: str) -> None:
        struck.append(node)
        await cluster.kubelet.kill_node(node)

    _, streamed = await door.ask(amid=strike)
    assert struck == [node]
    assert streamed == undisturbed, "nobody who reads it can tell"
    await cluster.kubelet.start_node(node)
    await cluster.all_ready(2 + 2 + 3 + 3)

    await cluster.kubectl(
        "patch", "llmodel/tiny", "--type=merge", '-p={"spec":{"scaling":{"idleSeconds":2}}}'
    )
    await cluster.eventually("nobody to hold it", lambda: cluster.model()["replicas"] == 0)
    (door, *_) = fresh(cluster)
    _, woken = await door.ask()
    assert woken == undisturbed
    await cluster.eventually("its replica", lambda: cluster.model()["replicas"] == 1)

    await cluster.helm(lambda config: config.uninstall(RELEASE, timeout=240))
    await cluster.eventually("all Pods to go", lambda: not cluster.pods())
    # Declarations outlive the release, and can be deleted without it.
    await cluster.kubectl("delete", "llmodel/tiny", "--timeout=30s")
    left = {path.stem for path in (REPO / "crds").glob("*.yaml")}
    kept = {("CustomResourceDefinition", "", f"{name}.lite-llm.dev") for name in left}
    with suppress(AssertionError):
        await cluster.eventually("controllers", lambda: cluster.objects() - before == kept)
    assert cluster.objects() - before == kept


def fresh(cluster: Cluster) -> list[Door]:
    """Doors, anew: a client is used once."""
    return [Door(cluster, pod) for pod in cluster.pods("orchestrator")]
