"""Nodes that run Pods as local processes, against a real control plane."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from lite_llm.testing.control_plane import ApiError, ControlPlane
from lite_llm.testing.guard import MARK, Guard, MissingServer
from lite_llm.testing.kubelet.addresses import claim_addresses
from lite_llm.testing.kubelet.api import RETRY_SECONDS, UNREACHABLE, Api, Json
from lite_llm.testing.kubelet.backoff import BackOff
from lite_llm.testing.kubelet.container import Container, StartFailed
from lite_llm.testing.kubelet.environment import Place
from lite_llm.testing.kubelet.keeper import Keeper
from lite_llm.testing.kubelet.names import HostsFile
from lite_llm.testing.kubelet.node import NodeShape, node_object, node_status
from lite_llm.testing.kubelet.plan import ContainerPlan
from lite_llm.testing.kubelet.pod import PodRunner, Surroundings, pod_path

INHERITED = ("HOME", "LANG", "LC_ALL", "TZ")
NOTHING: Mapping[str, str] = MappingProxyType({})
NO_ENTRYPOINTS: Mapping[str, Sequence[str]] = MappingProxyType({})


@dataclass
class _Node:
    shape: NodeShape
    address: str
    since: float
    heart: asyncio.Task[None] | None = None
    runners: dict[str, PodRunner] = field(default_factory=dict)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)


class ProcessKubelet:
    """Registers Nodes and runs the Pods that are bound to them; use as an async context manager.

    Each Pod has an address of its own, on which its programs should listen. Images are not pulled:
    a container runs its command on the machine's files, with volumes mounted where it expects them.
    Nothing enforces resource limits, security contexts or NetworkPolicies, and nothing routes
    ClusterIPs: names of Services lead to the addresses of their Pods.

    Args:
        plane: whose Pods to run.
        nodes: shapes of the Nodes, or how many plain ones, called ``node-1`` and so on.
        back_off: how long a container that keeps ending waits.
        entrypoints: commands, by image, for containers that give none.
        variables: environment of every container, below what its Pod says.
        heartbeat_seconds: time between two signs of life of a Node.

    Raises:
        MissingServer: on entering, where the machine permits no namespaces.
        ExceptionGroup: on leaving, the errors of the kubelet itself, if any.
    """

    def __init__(
        self,
        plane: ControlPlane,
        nodes: int | Sequence[NodeShape] = 1,
        *,
        back_off: BackOff | None = None,
        entrypoints: Mapping[str, Sequence[str]] = NO_ENTRYPOINTS,
        variables: Mapping[str, str] = NOTHING,
        heartbeat_seconds: float = 2.0,
    ) -> None:
        self._plane = plane
        self._shapes = (
            [NodeShape(f"node-{number}") for number in range(1, nodes + 1)]
            if isinstance(nodes, int)
            else nodes
        )
        self._back_off = back_off or BackOff()
        self._entrypoints = entrypoints
        self._variables = variables
        self._heartbeat_seconds = heartbeat_seconds
        self._errors: list[Exception] = []
        self._past: dict[tuple[str, str], PodRunner] = {}
        self._nodes: dict[str, _Node] = {}
        self._pods: Mapping[str, Json] = {}

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.guard = stack.enter_context(Guard("lite-llm-kubelet"))
            self._addresses = claim_addresses(self.guard)
            self._api = await stack.enter_async_context(Api(self._plane))
            variables = self._given()
            await self._try_out(variables)
            self._hosts = HostsFile(self.guard.directory / "hosts")
            self._surroundings = Surroundings(
                self._api,
                self.guard.directory / "pods",
                variables,
                self._entrypoints,
                self._back_off,
                self._hosts.path,
            )
            stack.push_async_callback(self._leave)
            for shape in self._shapes:
                self._nodes[shape.name] = _Node(shape, self._addresses.popleft(), time.time())
            await asyncio.gather(*map(self.start_node, self._nodes))
            self._following = [self._spawn(self._follow()), self._spawn(self._follow_names())]
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for following in self._following:
            following.cancel()
        await self._stack.aclose()
        if self._errors:
            raise ExceptionGroup("the process kubelet failed", self._errors)

    def _given(self) -> dict[str, str]:
        """Variables of every container: what makes in-cluster configuration work, and the mark."""
        port = str(self._plane.port)
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return {
            **inherited,
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
            "KUBERNETES_SERVICE_HOST": self._plane.host,
            "KUBERNETES_SERVICE_PORT": port,
            "KUBERNETES_SERVICE_PORT_HTTPS": port,
            **self._variables,
            MARK: self.guard.mark,
        }

    async def _try_out(self, variables: Mapping[str, str]) -> None:
        plan = ContainerPlan("trial", ("true",), variables, "/", ())
        try:
            scratch = self.guard.directory
            container = await Container.start(plan, scratch=scratch, log=scratch / "trial.log")
        except StartFailed as error:
            remedy = "be root, or permit user namespaces"
            raise MissingServer(f"Pods cannot run as processes ({error}): {remedy}") from error
        await container.wait()

    async def _leave(self) -> None:
        """End all that runs, then take Pods and Nodes off the apiserver if it is there."""
        pods = [runner.pod for node in self._nodes.values() for runner in node.runners.values()]
        await asyncio.gather(*map(self.kill_node, self._nodes))
        await asyncio.gather(
            *(self._forget(pod_path(pod), {"gracePeriodSeconds": 0}) for pod in pods),
            *(self._forget(f"/api/v1/nodes/{name}", None) for name in self._nodes),
        )

    async def _forget(self, path: str, order: Json | None) -> None:
        try:
            await self._api.request("DELETE", path, order)
        except UNREACHABLE:
            return
        except ApiError as error:
            if error.status != 404:
                raise

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._note_end)
        return task

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._errors.append(error)

    # -- Nodes

    async def start_node(self, name: str) -> None:
        """Register a Node, or bring one back that was killed: its Pods' containers start anew."""
        node = self._nodes[name]
        node.since = time.time()
        await self._beat(node)
        node.heart = self._spawn(self._keep_beating(node))
        self._reconcile(node)

    async def kill_node(self, name: str) -> None:
        """As by a power cut: its processes are gone, it falls silent, and it tells nobody."""
        node = self._nodes[name]
        tasks = [*node.tasks.values(), *([node.heart] if node.heart else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        node.heart = None
        node.tasks.clear()
        for runner in node.runners.values():
            self._release(runner)
        node.runners.clear()

    async def _keep_beating(self, node: _Node) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_seconds)
            await self._beat(node)

    async def _beat(self, node: _Node) -> None:
        """Say that the Node is well, registering it where the apiserver does not know it."""
        version = ".".join(map(str, self._plane.programs.version))
        while True:
            status = node_status(
                node.shape, node.address, version=f"v{version}.0", since=node.since, now=time.time()
            )
            try:
                if not await self._api.find(f"/api/v1/nodes/{node.shape.name}"):
                    await self._api.request("POST", "/api/v1/nodes", node_object(node.shape))
                path = f"/api/v1/nodes/{node.shape.name}/status"
                await self._api.request("PATCH", path, {"status": status})
            except (*UNREACHABLE, ApiError):
                await asyncio.sleep(RETRY_SECONDS)
                continue
            return

    # -- Pods

    async def _follow(self) -> None:
        async for pods in self._api.follow("/api/v1/pods", "spec.nodeName!="):
            self._pods = pods
            for node in self._nodes.values():
                if node.heart:
                    self._reconcile(node)

    async def _follow_names(self) -> None:
        async for endpoints in self._api.follow("/api/v1/endpoints", ""):
            self._hosts.tell(endpoints.values())

    def _reconcile(self, node: _Node) -> None:
        pods = {
            uid: pod
            for uid, pod in self._pods.items()
            if pod["spec"]["nodeName"] == node.shape.name
        }
        for uid, pod in pods.items():
            runner = node.runners.get(uid)
            if runner is None:
                host_network = pod["spec"].get("hostNetwork", False)
                address = node.address if host_network else self._addresses.popleft()
                place = Place(node.shape.name, node.address, address, node.shape.allocatable)
                runner = PodRunner(pod, place, self._surroundings)
                node.runners[uid] = runner
                node.tasks[uid] = self._spawn(runner.run())
                self._past[pod["metadata"]["namespace"], pod["metadata"]["name"]] = runner
                runner.update(pod)
            elif pod["metadata"]["resourceVersion"] != runner.pod["metadata"]["resourceVersion"]:
                runner.update(pod)
        for uid in node.runners.keys() - pods.keys():
            node.tasks.pop(uid).cancel()  # removed by force: what still runs is killed
            self._release(node.runners.pop(uid))

    def _release(self, runner: PodRunner) -> None:
        if runner.place.pod_ip != runner.place.host_ip:
            self._addresses.append(runner.place.pod_ip)  # last in the queue: it comes back late

    # -- for tests

    def log(
        self, namespace: str, pod: str, container: str | None = None, *, previous: bool = False
    ) -> str:
        """What the latest run of a container wrote, or the run before; also of a Pod that is gone.

        Raises:
            KeyError: no such Pod was run here, or it has no such container.
        """
        path = self._keeper(namespace, pod, container).log_path(previous=previous)
        return path.read_text(errors="replace") if path.exists() else ""

    def _keeper(self, namespace: str, pod: str, container: str | None) -> Keeper:
        runner = self._past[namespace, pod]
        keepers = {keeper.spec["name"]: keeper for keeper in (*runner.main, *runner.init)}
        return keepers[container] if container else runner.main[0]
