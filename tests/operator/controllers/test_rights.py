"""The operator's rights are exactly enough: each verb, taken away, breaks something."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.operator.conftest import RULES, Api, bind, resource, wait_until

from lite_llm.controllers import LeaseSettings, OperatorSettings, running
from lite_llm.metastore import MemoryStore
from lite_llm.testing.control_plane import ControlPlane

Rule = dict[str, Any]
LEASE = "/apis/coordination.k8s.io/v1/namespaces/default/leases/lite-llm-operator"
PARTS: dict[str, list[Rule]] = yaml.safe_load(Path(RULES).read_text())


def rights() -> Iterator[tuple[str, str, str]]:
    """Part, resource and verb of every right."""
    for part, rules in PARTS.items():
        for rule in rules:
            for name in rule["resources"]:
                for verb in rule["verbs"]:
                    yield part, name, verb


ALL = list(rights())


def without(part: str, name: str, verb: str) -> dict[str, list[Rule]]:
    left = copy.deepcopy(PARTS)
    split = [
        rule | {"resources": [each], "verbs": sorted(set(rule["verbs"]) - gone)}
        for rule in left[part]
        for each in rule["resources"]
        for gone in [{verb} if each == name else set()]
    ]
    return {**left, part: [rule for rule in split if rule["verbs"]]}


@pytest.mark.parametrize(("part", "name", "verb"), ALL, ids=["-".join(each[1:]) for each in ALL])
async def test_no_right_is_spare(
    api: Api, plane: ControlPlane, part: str, name: str, verb: str
) -> None:
    user = f"without-{name.replace('/', '-')}-{verb}"
    left = without(part, name, verb)
    await asyncio.to_thread(bind, plane, user, left["objects"])
    await asyncio.to_thread(bind, plane, user, left["lease"], "default")
    kubeconfig = str(plane.kubeconfig_for(user))
    with pytest.raises(Exception) as broken:  # noqa: PT011 - of whatever kind: it must not work
        await works_twice(api, kubeconfig, seconds=2.0)
    assert not isinstance(broken.value, AssertionError)


async def test_together_they_are_enough(api: Api, kubeconfig: str) -> None:
    await works_twice(api, kubeconfig, seconds=30.0)


async def works_twice(api: Api, kubeconfig: str, *, seconds: float) -> None:
    """Two terms: a first one must create the lease, a later one finds it there."""
    await works(api, kubeconfig, seconds)
    await works(api, kubeconfig, seconds)


async def works(api: Api, kubeconfig: str, seconds: float) -> None:
    """Everything that the operator does with its rights; ``TimeoutError`` or what it met if not."""
    lease = LeaseSettings(namespace="default", identity="only", duration_seconds=seconds / 2)
    settings = OperatorSettings(kubeconfig=kubeconfig, lease=lease, pace_seconds=0.02)
    tiers = [{"name": "near", "id": 0, "groups": 1, "expertsPerGroup": 4, "placement": "Hot"}]
    async with asyncio.timeout(5 * seconds), running(settings, MemoryStore()):
        await api.make(resource("m"))
        await api.make(resource("t", "TierSet", tiers=tiers))

        async def told() -> bool:
            bodies = [await api.get("m"), await api.get("t", "TierSet")]
            return all("status" in each and "finalizers" in each["metadata"] for each in bodies)

        await wait_until(told, seconds)

        async def announced() -> bool:
            return "Accepted" in await api.events("m")

        await wait_until(announced, seconds)

        async def renewed() -> bool:
            spec = (await api.request("GET", LEASE))["spec"]
            return bool(spec["renewTime"] != spec["acquireTime"])

        await wait_until(renewed, seconds)
        for name, kind in (("m", "LiteLLMModel"), ("t", "TierSet")):
            await api.delete(name, kind)

            async def gone(name: str = name, kind: str = kind) -> bool:
                return not await api.exists(name, kind)

            await wait_until(gone, seconds)
    await api.forget_events()
