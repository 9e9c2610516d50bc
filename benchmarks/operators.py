"""How the operator fares with many models: a real API server, a real etcd, the real program.

Prints one JSON object: seconds until every model has a status from nothing, seconds of a full
resync, share of a core while nothing happens, and how long a change in etcd takes to reach the
custom resource.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import AgentKey, ResidencyKey, key_of
from lite_llm.metastore import Store, open_store
from lite_llm.proto.v1 import agent_pb2, model_pb2
from lite_llm.testing.command import Command
from lite_llm.testing.control_plane import ApiError, ControlPlane
from lite_llm.testing.etcd import etcd_server
from lite_llm.testing.guard import Guard
from lite_llm.wire import dumps

CRDS = Path(__file__).resolve().parents[1] / "crds"
API = "/apis/lite-llm.dev/v1alpha1/namespaces/default/litellmmodels"
GIVE_UP_SECONDS = 600.0
LISTING_SECONDS = 2.0  # between looks at all models, which cost the API server much


def install(plane: ControlPlane) -> None:
    """Our definitions, until they are served."""
    for path in sorted(CRDS.glob("*.yaml")):
        crd = yaml.safe_load(path.read_text())
        plane.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
    for plural in ("litellmmodels", "tiersets"):
        wait(lambda plural=plural: is_served(plane, plural))


def is_served(plane: ControlPlane, plural: str) -> bool:
    """Whether the API server knows them by now."""
    try:
        plane.request("GET", f"/apis/lite-llm.dev/v1alpha1/{plural}")
    except ApiError:
        return False
    return True


def wait(condition: Any, every_seconds: float = 0.1) -> float:
    """Seconds until it holds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > GIVE_UP_SECONDS:
            raise TimeoutError("the operator does not get there")
        time.sleep(every_seconds)
    return time.monotonic() - began


def make(plane: ControlPlane, count: int) -> None:
    """``count`` models."""
    for number in range(count):
        body = {
            "apiVersion": "lite-llm.dev/v1alpha1",
            "kind": "LiteLLMModel",
            "metadata": {"name": f"m{number}"},
            "spec": {"source": {"uri": "hf://owner/tiny"}},
        }
        plane.request("POST", API, body)


def ready_reasons(plane: ControlPlane) -> dict[str, str]:
    """Reason of every model's condition Ready; "" while it has none."""
    found = {}
    for item in plane.request("GET", API)["items"]:
        told = item.get("status", {}).get("conditions", [])
        reasons = [each["reason"] for each in told if each["type"] == "Ready"]
        found[item["metadata"]["name"]] = reasons[0] if reasons else ""
    return found


async def latencies(plane: ControlPlane, store: Store, changes: int) -> list[float]:
    """Seconds from a change of a model's residency in etcd to its custom resource, one by one."""
    told = []
    for number in range(changes):
        held = agent_pb2.Residency(node="n1", state=model_pb2.MODEL_STATE_ACTIVE)
        await store.put(key_of(ResidencyKey(ModelRef("default", f"m{number}"), "n1")), dumps(held))
        began = time.monotonic()

        def serves(name: str = f"m{number}") -> bool:
            body = plane.request("GET", f"{API}/{name}")
            return bool(body["status"]["replicas"] == 1)

        await asyncio.to_thread(wait, serves, 0.005)
        told.append(time.monotonic() - began)
    return told


async def measure(count: int, changes: int, idle_seconds: float) -> dict[str, Any]:
    """Everything, with one operator."""
    with ControlPlane() as plane, etcd_server() as etcd, Guard("operator-benchmark") as guard:
        install(plane)
        make(plane, count)
        arguments = (f"--etcd=http://{etcd.endpoint}", f"--kubeconfig={plane.kubeconfig}")
        began = time.monotonic()
        operator = Command(guard, "operator", *arguments, "--resync-seconds=100000")
        wait(lambda: all(ready_reasons(plane).values()), LISTING_SECONDS)
        from_nothing = time.monotonic() - began
        process = psutil.Process(operator.process.pid)

        async with open_store(etcd.settings()) as store:
            # An agent's coming changes what every model's status says: a full resync.
            agent = agent_pb2.AgentStatus(node="n1", health=agent_pb2.Health(healthy=True))
            before = sum(process.cpu_times()[:2])
            await store.put(key_of(AgentKey("n1")), dumps(agent))
            resync = wait(
                lambda: set(ready_reasons(plane).values()) == {"ScaledToZero"}, LISTING_SECONDS
            )
            resync_cpu = sum(process.cpu_times()[:2]) - before
            await asyncio.sleep(2)
            before, since = sum(process.cpu_times()[:2]), time.monotonic()
            await asyncio.sleep(idle_seconds)
            idle = (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - since)
            seconds = sorted(await latencies(plane, store, changes))
        memory = process.memory_info().rss
        operator.terminated()
    return {
        "models": count,
        "from_nothing_seconds": round(from_nothing, 1),
        "resync_seconds": round(resync, 1),
        "resync_cpu_seconds": round(resync_cpu, 1),
        "idle_share_of_a_core": round(idle, 4),
        "change_to_status_p50_seconds": round(statistics.median(seconds), 3),
        "change_to_status_p99_seconds": round(seconds[int(0.99 * (len(seconds) - 1))], 3),
        "memory_mib": memory >> 20,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--idle-seconds", type=float, default=30.0)
    options = parser.parse_args()
    told = asyncio.run(measure(options.models, options.changes, options.idle_seconds))
    json.dump(told, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
