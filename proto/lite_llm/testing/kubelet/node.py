"""What a Node says of itself. Pure."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lite_llm.testing.kubelet.environment import Object
from lite_llm.testing.kubelet.status import timestamp

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
CAPACITY = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "110"}
"""More than a test asks for: the scheduler counts it, and nothing enforces it."""


@dataclass(frozen=True)
class NodeShape:
    """A Node to register; ``capacity`` adds to the default one, such as ``nvidia.com/gpu``."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    capacity: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Mapping[str, str]] = ()

    @property
    def allocatable(self) -> dict[str, str]:
        """All that its Pods may ask for."""
        return {**CAPACITY, **self.capacity}


def node_object(shape: NodeShape) -> dict[str, Any]:
    """The Node to register."""
    known = {
        "kubernetes.io/hostname": shape.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": ARCHITECTURE,
    }
    return {
        "metadata": {"name": shape.name, "labels": {**known, **shape.labels}},
        "spec": {"taints": [dict(taint) for taint in shape.taints]},
    }


def node_status(
    shape: NodeShape, address: str, *, version: str, since: float, now: float
) -> Object:
    """Its status as of ``now``; it has been ready ``since`` then, in seconds since the epoch."""
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "runs containers as processes",
        "lastHeartbeatTime": timestamp(now),
        "lastTransitionTime": timestamp(since),
    }
    return {
        "capacity": shape.allocatable,
        "allocatable": shape.allocatable,
        "addresses": [
            {"type": "InternalIP", "address": address},
            {"type": "Hostname", "address": shape.name},
        ],
        "conditions": [ready],
        "nodeInfo": {
            "architecture": ARCHITECTURE,
            "operatingSystem": "linux",
            "osImage": platform.platform(),
            "kernelVersion": platform.release(),
            "kubeletVersion": version,
            "kubeProxyVersion": version,
            "containerRuntimeVersion": "process://1",
            "bootID": "",
            "machineID": "",
            "systemUUID": "",
        },
    }
