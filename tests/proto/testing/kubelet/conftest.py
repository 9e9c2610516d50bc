"""One control plane for all of these tests, and a namespace and three Nodes for each."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from lite_llm.testing.control_plane import ApiError, ControlPlane
from lite_llm.testing.kubelet import ProcessKubelet

Eventually = Callable[[Callable[[], Any]], Awaitable[Any]]
SECONDS = 60.0
_numbers = itertools.count()


@pytest.fixture
def eventually() -> Eventually:
    """Waits until a condition holds, and gives what it returned."""

    async def wait(condition: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SECONDS
        while True:
            if found := condition():
                return found
            assert loop.time() < deadline, "it did not come to that in time"
            await asyncio.sleep(0.05)

    return wait


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane(node_monitor_grace_seconds=6) as plane:
        yield plane


class Cluster:
    """A namespace, the kubelet, and short words for what tests do with them."""

    def __init__(
        self, plane: ControlPlane, kubelet: ProcessKubelet, eventually: Eventually
    ) -> None:
        self.plane = plane
        self.kubelet = kubelet
        self.eventually = eventually
        self.namespace = plane.make_namespace(f"test-{next(_numbers)}")

    def path(self, kind: str, name: str = "", group: str = "") -> str:
        """Where objects of a kind are, or one of them."""
        api = f"/apis/{group}" if group else "/api/v1"
        return f"{api}/namespaces/{self.namespace}/{kind}" + (f"/{name}" if name else "")

    def make(self, kind: str, body: dict[str, Any], group: str = "") -> Any:
        """Create an object."""
        return self.plane.request("POST", self.path(kind, group=group), body)

    def get(self, kind: str, name: str, group: str = "") -> Any:
        """Read an object; None where there is none."""
        try:
            return self.plane.request("GET", self.path(kind, name, group))
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    def delete_pod(self, name: str, grace_seconds: int) -> None:
        """Ask a Pod to end."""
        grace = f"?gracePeriodSeconds={grace_seconds}"
        self.plane.request("DELETE", self.path("pods", name) + grace)

    def run(self, name: str, script: str, *, pod: Any = None, **container: Any) -> None:
        """Make a Pod of one container that runs a shell script."""
        one = {"name": "main", "image": "none", "command": ["sh", "-c", script], **container}
        spec = {"containers": [one], **(pod or {})}
        self.make("pods", {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})

    def pods(self) -> list[Any]:
        """All Pods of the namespace."""
        items: list[Any] = self.plane.request("GET", self.path("pods"))["items"]
        return items

    def status(self, name: str) -> Any:
        """A Pod's status."""
        return self.plane.request("GET", self.path("pods", name))["status"]

    def container(self, name: str) -> Any:
        """The status of a Pod's first container; empty before there is one."""
        return (self.status(name).get("containerStatuses") or [{}])[0]

    def state(self, name: str) -> Any:
        """The state of a Pod's first container; empty before there is one."""
        return self.container(name).get("state") or {}

    def is_ready(self, name: str) -> bool:
        """Whether a Pod is Ready."""
        conditions = self.status(name).get("conditions") or ()
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def log(self, name: str, container: str | None = None) -> str:
        """What a Pod's container wrote."""
        return self.kubelet.log(self.namespace, name, container)

    async def phase(self, name: str, *expected: str) -> Any:
        """Wait for a phase; the Pod's status then."""
        await self.eventually(lambda: self.status(name)["phase"] in expected)
        return self.status(name)

    async def gone(self, name: str) -> None:
        """Wait until a Pod is removed."""
        await self.eventually(lambda: self.get("pods", name) is None)


@pytest.fixture
async def cluster(plane: ControlPlane, eventually: Eventually) -> AsyncIterator[Cluster]:
    async with ProcessKubelet(plane, 3, heartbeat_seconds=1.0) as kubelet:
        yield Cluster(plane, kubelet, eventually)
